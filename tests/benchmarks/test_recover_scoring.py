"""Scores by hand, and what a claims file may not say."""

import json
from pathlib import Path

import polars as pl
import pytest

from benchmarks.recover.__main__ import main
from benchmarks.recover.claims import ClaimsFile, Task, check_claims
from benchmarks.recover.contenders import score
from benchmarks.recover.nulls import shuffle_bundle
from benchmarks.recover.report import BEGIN, END, put
from benchmarks.recover.scoring import (
    Grade,
    HeldOut,
    calibration,
    families_f1,
    grade,
    in_words,
    mean,
    same,
    share,
    thresholds_right,
)
from benchmarks.recover.tasks import TASK, read_record, score_claims, write_task
from benchmarks.recover.truth import STRATA, Claim, InGroup, Structure, Term, Truth
from benchmarks.recover.worlds import WorldKind, write_world
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.operations.test_rule import test_rule as operation
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store

A, B = Term(family="f01", threshold=3), Term(family="f02", threshold=6)
A_LOW = Term(family="f01", threshold=1)
BLUE = InGroup(by="g", value="blue")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder of a small task, its truth)."""
    folder = tmp_path_factory.mktemp("recover")
    out, truth = folder / "task", folder / "elsewhere" / "truth.json"
    write_task(out, truth, "set", (101,), n_units=500, features_per_stratum=1)
    return out, truth


@pytest.fixture
def store(task: tuple[Path, Path]) -> Store:
    return open_store(str(task[0] / "world1"))


def test_a_claim_is_exact_only_when_every_part_is() -> None:
    planted = Structure(terms=(A, B), combine="and")
    assert same(planted, Structure(terms=(A, B), combine="and"))
    assert not same(planted, Structure(terms=(A, B), combine="or"))
    assert not same(planted, Structure(terms=(A_LOW, B), combine="and"))
    assert not same(planted, Structure(terms=(A,)))
    assert not same(planted, None)
    assert not same(Structure(terms=(A,)), Structure(terms=(A,), polarity="decreases"))
    assert not same(Structure(terms=(A,)), Structure(terms=(A,), gate=BLUE))
    assert not same(Structure(terms=(A,)), Structure(terms=(A,), tail=B))
    assert not same(Structure(terms=(A,)), Structure(terms=(A,), dose=True))


def test_the_threshold_of_a_dose_is_not_scored() -> None:
    assert same(Structure(terms=(A,), dose=True), Structure(terms=(A_LOW,), dose=True))
    assert thresholds_right(Structure(terms=(A,), dose=True), Structure(terms=(A_LOW,), dose=True)) is None


def test_claiming_nothing_is_right_where_nothing_is_planted_and_only_there() -> None:
    nothing = Claim(feature=0, structure=None, confidence=0.9)
    for stratum, structure, right in (("noise", None, True), ("or", Structure(terms=(A,)), False)):
        found = grade(
            nothing, Truth.model_validate({"feature": 0, "stratum": stratum, "structure": structure})
        )
        assert (found.exact, found.made_claim, found.false_claim) == (right, False, False)


def test_a_claim_about_noise_is_a_false_one() -> None:
    claim = Claim(feature=0, structure=Structure(group=BLUE), confidence=0.9)
    found = grade(claim, Truth(feature=0, stratum="noise", structure=None))
    assert found.false_claim
    assert not found.exact
    assert found.families_f1 is None


def test_partial_scores_by_hand() -> None:
    planted, claimed = Structure(terms=(A, B), combine="and"), Structure(terms=(A_LOW,))
    # one of one claimed is right, one of two planted is found: 2 x 1 / (1 + 2)
    assert families_f1(claimed, planted) == pytest.approx(2 / 3)
    assert thresholds_right(claimed, planted) == 0
    assert thresholds_right(Structure(terms=(A,)), planted) == 1
    assert families_f1(Structure(group=BLUE), Structure(group=BLUE)) == 1
    assert families_f1(Structure(group=BLUE), planted) == 0


def test_a_structure_in_words_says_what_its_rule_cannot() -> None:
    told = in_words(Structure(terms=(A,), tail=B))
    assert told == "family:f01>=3, tail family:f02>=6"
    assert in_words(Structure(terms=(A,), dose=True)) == "family:f01>=3, with dose"
    assert in_words(None) == "nothing"


def test_shares_have_exact_intervals() -> None:
    none, all_, some = share([False] * 16), share([True] * 16), share([True] * 2 + [False] * 8)
    assert none is not None
    assert all_ is not None
    assert some is not None
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 16))
    assert all_.low == pytest.approx(0.025 ** (1 / 16))
    # 2 of 10: 0.0252 to 0.5561 in the tables of Clopper and Pearson
    assert (some.low, some.high) == pytest.approx((0.0252, 0.5561), abs=1e-4)
    assert share([]) is None


def test_a_mean_leaves_out_what_could_not_be_measured() -> None:
    found = mean([1.0, None, 0.0, 0.5])
    assert found is not None
    assert (found.n, found.value) == (3, 0.5)
    # t(2) at 97.5 % is 4.3027, the standard error 0.5 / sqrt(3)
    assert found.high == pytest.approx(0.5 + 4.3027 * 0.5 / 3**0.5, abs=1e-4)


def graded(confidence: float, exact: bool) -> Grade:
    structure = Structure(terms=(A,))
    claim = Claim(feature=0, structure=structure if exact else Structure(terms=(B,)), confidence=confidence)
    return grade(claim, Truth(feature=0, stratum="or", structure=structure))


def test_calibration_by_hand() -> None:
    found = calibration([graded(0.9, True), graded(0.9, True), graded(0.5, False), graded(1.0, False)])
    assert found is not None
    assert [(b.low, b.n, b.right) for b in found.bins] == [(0.4, 1, 0.0), (0.9, 3, pytest.approx(2 / 3))]
    assert found.brier == pytest.approx((0.01 + 0.01 + 0.25 + 1) / 4)
    assert found.brier_trivial == pytest.approx(0.25)


def test_recovery_counts_recoverable_strata_and_false_claims_null_ones() -> None:
    noise = Truth(feature=1, stratum="noise", structure=None)
    claimed = Claim(feature=1, structure=Structure(terms=(A,)), confidence=0.5)
    found = score("somebody", [graded(0.9, True), graded(0.9, False), grade(claimed, noise)])
    assert (found.recovered["or"].k, found.recovered["or"].n) == (1, 2)
    assert (found.false_claims.k, found.false_claims.n) == (1, 1)
    assert found.polarity.n == 2


def test_held_out_accuracy_is_that_of_the_operation(store: Store, task: tuple[Path, Path]) -> None:
    truths = json.loads(task[1].read_text(encoding="utf-8"))["worlds"]["world1"]
    planted = [Truth.model_validate(t) for t in truths]
    compared = 0
    for truth in planted:
        if truth.structure is None:
            continue
        ours = HeldOut(store).accuracy(truth.feature, truth.structure)
        theirs = operation(store, truth.feature, truth.structure.rule, split="heldout", limit=0)
        if theirs.balanced_accuracy is not None:
            assert ours == pytest.approx(theirs.balanced_accuracy, rel=1e-5)
            compared += 1
    assert compared >= 10


def test_claiming_nothing_has_the_accuracy_of_always_no(store: Store) -> None:
    found = {HeldOut(store).accuracy(feature, None) for feature in range(17)}
    assert found <= {0.5, None}


def test_a_task_tells_nothing_of_the_truth(task: tuple[Path, Path]) -> None:
    folder, truth = task
    assert not truth.is_relative_to(folder)
    assert not list(folder.rglob("*truth*"))
    texts = [p.read_text(encoding="utf-8") for p in folder.rglob("*.json")]
    # words of the instructions aside, none of the strata is named where an investigator may look
    assert not [s for s in STRATA if "_" in s and any(f'"{s}"' in text for text in texts)]


def test_the_built_in_claims_of_a_task_are_scored_from_the_files_alone(
    task: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, truth = task
    claims = tmp_path / "claims.json"
    assert main(["claim", str(folder), "--out", str(claims), "--investigator", "always nothing"]) == 0
    assert main(["score", str(claims), "--task", str(folder), "--truth", str(truth)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("17 of 17 features claimed, 0 over the budget of 40 calls.\n\n")
    assert "| always nothing | 0/12 = 0.00 [0.00, 0.26] | 0/2 = 0.00 [0.00, 0.84] |" in said
    assert main(["score", str(claims), "--task", str(folder), "--truth", str(truth), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 17
    assert {line["grade"]["claimed"] for line in lines} == {"nothing"}


def claims_of(task: Task, *claims: Claim, store: str = "world1", of: str | None = None) -> ClaimsFile:
    return ClaimsFile(task=of or task.task, investigator="me", worlds={store: claims})


def test_claims_that_do_not_fit_the_task_are_refused_by_name(task: tuple[Path, Path]) -> None:
    asked: Task = read_record(task[0] / TASK, Task)
    worlds = {w.store: w for w in asked.worlds}
    family, names = next(iter(worlds["world1"].families.items()))
    levels = ", ".join(map(str, names.levels))

    def refused(file: ClaimsFile) -> str:
        with pytest.raises(BadInput) as caught:
            check_claims(file, asked.task, worlds)
        return str(caught.value)

    def claim(feature: int = 0, structure: Structure | None = None) -> Claim:
        return Claim(feature=feature, structure=structure, confidence=0.5)

    def term(name: str, threshold: int) -> Structure:
        return Structure(terms=(Term(family=name, threshold=threshold),))

    check_claims(claims_of(asked, claim(structure=term(family, names.levels[0]))), asked.task, worlds)
    assert refused(claims_of(asked, of="another")) == (
        f"the claims are of task 'another', this is task '{asked.task}'; copy `task` from task.json"
    )
    assert refused(claims_of(asked, store="world9")) == (
        "claims of store 'world9', which the task does not have; nearest: 'world1'"
    )
    where = "store 'world1', feature"
    assert refused(claims_of(asked, claim(99))) == f"{where} 99: not asked for; task.json lists the features"
    assert refused(claims_of(asked, claim(), claim())) == f"{where} 0: claimed twice; a feature has one claim"
    assert refused(claims_of(asked, claim(structure=term("swim", 3)))).startswith(
        f"{where} 0: no family 'swim'; "
    )
    assert refused(claims_of(asked, claim(structure=term(family, 77)))) == (
        f"{where} 0: {family} has no level 77; a threshold is one of {levels}"
    )
    unknown = Structure(group=InGroup(by="a1", value="x"))
    assert refused(claims_of(asked, claim(structure=unknown))).startswith(
        f"{where} 0: no group 'a1' (an attribute is GROUP.ATTRIBUTE); "
    )
    value = Structure(group=InGroup(by="g", value="nowhere"))
    assert refused(claims_of(asked, claim(structure=value))).startswith(
        f"{where} 0: g has no value 'nowhere'; "
    )


def test_a_claims_file_that_does_not_fit_its_schema_names_the_field(
    task: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, truth = task
    file = tmp_path / "claims.json"
    wrong = {"task": "t", "investigator": "me", "worlds": {"world1": [{"feature": 0, "confidence": 2}]}}
    file.write_text(json.dumps(wrong), encoding="utf-8")
    assert main(["score", str(file), "--task", str(folder), "--truth", str(truth)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {file}: worlds.world1.0.structure: Field required; ")
    assert "worlds.world1.0.confidence: Input should be less than or equal to 1" in said
    assert main(["score", str(tmp_path / "none"), "--task", str(folder), "--truth", str(truth)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'} does not exist or is not a file\n"


def test_claims_are_not_scored_on_another_store(task: tuple[Path, Path], tmp_path: Path) -> None:
    folder, truth = task
    other = tmp_path / "task"
    other.mkdir()
    asked = json.loads((folder / TASK).read_text(encoding="utf-8"))
    true = asked["worlds"][0]["fingerprint"]
    asked["worlds"][0]["fingerprint"] = "0" * 16
    (other / TASK).write_text(json.dumps(asked), encoding="utf-8")
    (other / "world1").symlink_to(folder / "world1")
    claims = tmp_path / "claims.json"
    claims.write_text(
        json.dumps({"task": asked["task"], "investigator": "me", "worlds": {}}), encoding="utf-8"
    )
    with pytest.raises(BadInput) as caught:
        score_claims(claims, other, truth)
    assert str(caught.value) == (
        f"store {other / 'world1'} is {true}, the task was made with 0000000000000000; "
        "score with the folder that was handed out"
    )


def test_the_truth_may_not_lie_in_the_folder_that_is_handed_over(tmp_path: Path) -> None:
    out = tmp_path / "task"
    with pytest.raises(BadInput) as caught:
        write_task(out, out / "truth.json", "set", (101,))
    assert str(caught.value) == (
        f"the truth ({out / 'truth.json'}) would lie in the folder that the investigator is given ({out})"
    )


def dealt(kind: WorldKind, folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """(samples, activations before, after) of a small world that was shuffled."""
    bundle = folder / "bundle"
    write_world(bundle, kind, 101, n_units=60, features_per_stratum=1)
    before = pl.read_parquet(bundle / "activations.parquet")
    shuffle_bundle(bundle, 0)
    return (
        pl.read_parquet(bundle / "samples.parquet"),
        before,
        pl.read_parquet(bundle / "activations.parquet"),
    )


def test_shuffling_a_set_keeps_each_features_activations_and_moves_whole_units(tmp_path: Path) -> None:
    samples, before, after = dealt("set", tmp_path)
    assert after["sample"].to_list() != before["sample"].to_list()
    assert after.drop("sample").equals(before.drop("sample"))
    units = samples["unit"]
    pairs = pl.DataFrame({"was": units[before["sample"]], "now": units[after["sample"]]}).unique()
    assert pairs["was"].n_unique() == pairs["now"].n_unique() == len(pairs)


def test_shuffling_sequences_keeps_each_features_activations_and_excludes_what_was_excluded(
    tmp_path: Path,
) -> None:
    samples, before, after = dealt("sequence", tmp_path)
    counted = before.filter(pl.col("position") > 0)
    assert after.select("feature", "value").equals(counted.select("feature", "value"))
    assert after["position"].to_numpy().min() >= 1
    lengths = samples["tokens"].list.len()[after["sample"]]
    assert (after["position"] < lengths).all()
    assert len(after.select("feature", "sample", "position").unique()) == len(after)
    assert (after["sample"] != counted["sample"]).mean() > 0.9  # type: ignore[operator]


def test_the_page_keeps_what_is_written_by_hand() -> None:
    page = f"by hand\n\n{BEGIN}\nold\n{END}\n\nmore by hand\n"
    assert put(page, "new") == f"by hand\n\n{BEGIN}\nnew\n{END}\n\nmore by hand\n"
    assert put("by hand\n", "new") == f"by hand\n\n{BEGIN}\nnew\n{END}\n"
