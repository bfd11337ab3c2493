"""The examples that `run_labeling` writes, on a store worked out by hand; weaknesses are the seed's, by number."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.run_labeling import run_labeling
from saeinterp_mcp.store.memory_store import World, WorldSample
from tests.conftest import PYCODE
from tests.worlds import Quiet, builds, import_world

WORDS = [
    "the",
    "price",
    "of",
    "bread",
    "rose",
    "and",
    "fell",
    "again",
    "in",
    "the",
    "old",
    "town",
    "by",
    "the",
    "sea",
]
"""15 words, each with a space before it in the tokens."""


def sentence(*changed: tuple[int, str]) -> tuple[str, ...]:
    tokens = ["<bos>", *(f" {word}" for word in WORDS)]
    for position, token in changed:
        tokens[position] = token
    return tuple(tokens)


def world() -> World:
    """Feature 0 fires on the first and the last counted position and once inside, 1 on copies of one text, 2 never,
    3 everywhere with the position's number, 4 on a token that would forge a mark, 5 inside a character.
    """
    samples = (
        WorldSample(sentence((5, " salt")), unit="u0"),
        WorldSample(sentence((1, "A")), unit="u1"),
        *(WorldSample(sentence((8, " once")), unit=f"copy{i}") for i in range(3)),
        WorldSample(sentence((7, "<<x"), (6, " <")), unit="u5"),
        WorldSample(sentence((3, "<0xE2>"), (4, "<0x82>"), (5, "<0xAC>")), unit="u6"),
    )
    activations = {(3, i, p): float(p) for i in range(len(samples)) for p in range(1, 16)}
    activations |= {(0, 1, 1): 7.5, (0, 0, 15): 9.25, (0, 0, 5): 8.0}
    activations |= {(1, i, 8): 2.0 + i for i in (2, 3, 4)} | {(1, 0, 8): 0.5}
    activations |= {(4, 5, 7): 1.5, (5, 6, 4): 1.25}
    return World("sequence", 6, samples, activations, excluded_positions=(0,))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return import_world(world(), tmp_path_factory.mktemp("world"))


def labelled(
    store: Path, out: Path, features: Any, **given: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    written = run_labeling(
        features,
        store=store,
        output_dir=out,
        label_model_path="none",
        progress=Quiet(),
        **({"split": "all"} | given),
    )
    text = Path(written["examples_path"]).read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.removesuffix("\n").split("\n")]
    return records, json.loads(Path(written["labels_path"]).read_text(encoding="utf-8"))


def test_a_line_has_the_seeds_fields_and_the_firing_token_beside_them(store: Path, tmp_path: Path) -> None:
    [record], _ = labelled(store, tmp_path, [0], max_examples_per_feature=1, feature_scores=[0.335])
    assert record == {
        "feature_id": 0,
        "score": 0.335,
        "examples": [
            {
                "activation": 9.25,
                "sequence_index": 0,
                "token_position": 15,
                "text": " salt and fell again in the old town by the sea",
                "token": " sea",
                "marked": "… salt and fell again in the old town by the<< sea>>",
            }
        ],
        "n_firing": 3,
        "firing_rate": 3 / 105,
        "max_activation": 9.25,
        "reason": None,
    }


def test_weakness_1_and_3_the_edges_of_a_sample_are_as_eligible_as_its_middle(
    store: Path, tmp_path: Path
) -> None:
    [record], _ = labelled(store, tmp_path, [0])
    found = [
        (e["sequence_index"], e["token_position"], e["activation"], e["token"]) for e in record["examples"]
    ]
    assert found == [(0, 15, 9.25, " sea"), (0, 5, 8.0, " salt"), (1, 1, 7.5, "A")]
    assert record["examples"][2]["marked"].startswith("<<A>> price")
    assert record["examples"][2]["text"].startswith("A price of")


def test_weakness_2_what_is_silent_is_never_an_example(store: Path, tmp_path: Path) -> None:
    records, labels = labelled(store, tmp_path, range(6), max_examples_per_feature=1000)
    # feature 3 fires at all 105 positions; a window of 10 on either side that looks alike counts once
    windows = {(p, s.tokens[max(1, p - 10) : p + 11]) for s in world().samples for p in range(1, 16)}
    assert 60 < len(windows) < 105
    expected = [3, 2, 0, len(windows), 1, 1]
    assert [len(record["examples"]) for record in records] == expected
    assert [feature["num_examples"] for feature in labels["features"]] == expected
    assert all(example["activation"] > 0 for record in records for example in record["examples"])


def test_weakness_4_copies_of_a_text_are_shown_once_with_their_strongest(store: Path, tmp_path: Path) -> None:
    [record], _ = labelled(store, tmp_path, [1])
    assert [(e["sequence_index"], e["activation"]) for e in record["examples"]] == [(4, 6.0), (0, 0.5)]
    assert record["n_firing"] == 4  # all of them counted, shown or not


def test_weakness_6_the_seeds_old_name_is_an_option_and_no_domain_is_in_the_files(
    store: Path, tmp_path: Path
) -> None:
    [record], _ = labelled(store, tmp_path / "new", [0], feature_scores=[0.5])
    assert "finance_score" not in record
    [old], _ = labelled(store, tmp_path / "old", [0], feature_scores=[0.5], legacy_names=True)
    assert list(old)[:3] == ["feature_id", "finance_score", "examples"]
    assert {("score" if name == "finance_score" else name): old[name] for name in old} == record
    for path in (tmp_path / "new").iterdir():
        assert "financ" not in path.read_text(encoding="utf-8").lower()


def test_weakness_7_a_feature_that_never_fires_has_a_record_and_a_reason(store: Path, tmp_path: Path) -> None:
    [record], labels = labelled(store, tmp_path, [2])
    reason = "feature 2 never fires on the 105 positions; more text may show it"
    assert record == {
        "feature_id": 2,
        "score": 0.0,
        "examples": [],
        "n_firing": 0,
        "firing_rate": 0.0,
        "max_activation": None,
        "reason": reason,
    }
    [label] = labels["features"]
    assert {
        name: label[name] for name in ("label_llm", "label_search", "label", "label_by")
    } == dict.fromkeys(("label_llm", "label_search", "label", "label_by"))
    assert label["reason"] == reason


def test_weakness_8_the_firing_token_is_marked_and_never_cut_away(tmp_path: Path) -> None:
    long = tuple(f" {'x' * 60}{i}" for i in range(30))
    one = World("sequence", 1, (WorldSample(long, unit="u"),), {(0, 0, 20): 3.0})
    [record], _ = labelled(import_world(one, tmp_path), tmp_path / "out", [0])
    [example] = record["examples"]
    assert f"<< {'x' * 60}20>>" in example["marked"]
    assert example["token"] in example["text"]
    assert (record["max_activation"], record["firing_rate"]) == (3.0, 1 / 30)


def test_a_corpus_cannot_forge_a_mark_and_bytes_become_their_character(store: Path, tmp_path: Path) -> None:
    forged, byte = (record["examples"][0] for record in labelled(store, tmp_path, [4, 5])[0])
    assert forged["token"] == "<<x"
    assert forged["marked"].count("<<") == forged["marked"].count(">>") == 1
    assert " ‹<<‹‹x>>" in forged["marked"]
    assert byte["token"] == "<0x82>"
    assert "€" in byte["text"]


def test_examples_are_of_the_explain_units_unless_all_are_asked_for(tmp_path: Path) -> None:
    samples = tuple(WorldSample((" a", f" b{i}"), unit=f"u{i}") for i in range(60))
    one = World("sequence", 1, samples, {(0, i, 1): 1.0 + i for i in range(60)})
    store = import_world(one, tmp_path)
    # the rule of the design, worked out anew: a unit is `explain` in the lower 70 % of the range of its hash
    from hashlib import blake2b

    def place(unit: str) -> float:
        return int.from_bytes(blake2b(f"0\0{unit}".encode(), digest_size=8).digest(), "big") / 2**64

    explain = [i for i in reversed(range(60)) if place(f"u{i}") < 0.7]
    assert 30 < len(explain) < 55
    [record], labels = labelled(store, tmp_path / "out", [0], split="explain", max_examples_per_feature=60)
    assert [e["sequence_index"] for e in record["examples"]] == explain
    assert record["n_firing"] == len(explain)
    assert labels["provenance"]["split"] == "explain"
    [record], _ = labelled(store, tmp_path / "all", [0], split="all", max_examples_per_feature=60)
    assert [e["sequence_index"] for e in record["examples"]] == list(reversed(range(60)))


def test_a_store_of_sets_has_examples_without_a_token(tmp_path: Path) -> None:
    store = import_world(builds(), tmp_path)
    [record], _ = labelled(store, tmp_path / "out", [1], max_examples_per_feature=1)
    [example] = record["examples"]
    assert (example["token"], example["token_position"]) == (None, 0)
    assert example["text"] == example["marked"]


def test_a_finished_store_may_stand_in_the_place_of_the_sae(pycode_store: Path, tmp_path: Path) -> None:
    written = run_labeling(
        "2", None, pycode_store, output_dir=tmp_path, label_model_path="none", progress=Quiet()
    )
    [line] = Path(written["examples_path"]).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["examples"][0]["token"] == " sy"
    assert not (tmp_path / "store").exists()


def test_a_search_label_is_made_of_a_vocabulary_where_one_is_named(
    pycode_store: Path, tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("# allowed\nclass\nbread\n", encoding="utf-8")
    _, labels = labelled(pycode_store, tmp_path / "out", [2], split="explain", vocabulary=words)
    assert labels["features"][0]["label_search"] == "class"
    assert labels["provenance"]["label_search"]["vocabulary"] == "words.txt"
    _, finance = labelled(pycode_store, tmp_path / "finance", [2], split="explain", vocabulary="finance")
    assert finance["features"][0]["label_search"] in (None, "class")


def test_the_shipped_bundle_has_the_features_that_the_seed_would_ask_for(
    pycode_store: Path, tmp_path: Path
) -> None:
    asked = {"feature_indices": [11, 313, 251], "scores": [0.335, 0.216, 0.049]}
    path = tmp_path / "features.json"
    path.write_text(json.dumps(asked), encoding="utf-8")
    records, labels = labelled(pycode_store, tmp_path / "out", str(path), split="explain")
    assert labels["num_features"] == 3
    assert [(f["feature_index"], f["score"]) for f in labels["features"]] == [
        (11, 0.335),
        (313, 0.216),
        (251, 0.049),
    ]
    assert [record["feature_id"] for record in records] == [11, 313, 251]
    assert all(feature["label"] == feature["label_search"] for feature in labels["features"])
    assert str(PYCODE) not in json.dumps(labels)
