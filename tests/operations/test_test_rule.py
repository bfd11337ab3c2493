"""A rule as a predictor of firing: counts and floors by hand, what is refused, and the record of held-out tests."""

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.errors import BadInput, BadStore, NotInStore, UnknownName
from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.labels.heldout import n_tests
from saeinterp_mcp.operations.test_rule import test_rule as ask_rule
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import FamilyInfo
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from saeinterp_mcp.store.open import open_store
from tests.operations.brute import dense
from tests.worlds import import_world

RULE = "family:swim>=6 and not token:x"


def ask(store: Store, rule: str = RULE, **arguments: Any) -> Any:
    return ask_rule(store, arguments.pop("feature", 0), rule, **arguments)


def planted(n_units: int = 400, seed: int = 0) -> World:
    """Two views of each build. Feature 0 fires mostly on swim at 6 and more without x, 1 on noise, 2 never."""
    generator = np.random.default_rng(seed)
    swim = FamilyInfo(
        name="swim", encoding="cumulative", levels=(3, 6, 12), tokens={"s3": 3, "s6": 6, "s12": 12}
    )
    samples, activations = [], {}
    for i in range(2 * n_units):
        level = int(generator.choice([0, 3, 6, 12], p=[0.4, 0.2, 0.2, 0.2]))
        tokens = [t for t, v in swim.tokens.items() if v <= level]
        tokens += [t for t in ("x", "y", "z") if generator.random() < 0.4]
        samples.append(
            WorldSample(tuple(tokens), unit=f"u{i // 2}", groups={"weapon": f"w{generator.integers(3)}"})
        )
        if generator.random() < (0.85 if level >= 6 and "x" not in tokens else 0.06):
            activations[0, i, 0] = round(float(generator.lognormal()), 3)
        if generator.random() < 0.3:
            activations[1, i, 0] = 1.0
    return World("set", 3, tuple(samples), activations, families=(swim,), primary="weapon", name="planted")


@pytest.fixture(scope="module")
def world() -> World:
    return planted()


@pytest.fixture
def store(world: World) -> Store:
    return memory_store(world)


def heldout(store: Store, feature: int = 0) -> tuple[Any, Any, Any]:
    """Tokens, activation and unit of the held-out rows, one at a time."""
    first = store.n_rows("explain")
    names = [
        {store.tokens[t] for t in store.tokens_of_sample(s).tolist()}
        for s in range(first, store.manifest.n_samples)
    ]
    return names, dense(store, feature)[first:], store.row_unit[first:]


def says(tokens: set[str]) -> bool:
    """RULE, written out."""
    return "s6" in tokens and "x" not in tokens


def test_counts_and_shares_are_those_of_the_held_out_rows_counted_one_by_one(store: Store) -> None:
    tokens, activation, unit = heldout(store)
    cells = dict.fromkeys(product((True, False), repeat=2), 0)
    for held, value in zip(map(says, tokens), activation, strict=True):
        cells[held, bool(value > 0)] += 1
    tp, fp, tn, fn = (cells[k] for k in ((True, True), (True, False), (False, False), (False, True)))
    found = ask(store)
    assert (found.tp, found.fp, found.tn, found.fn) == (tp, fp, tn, fn)
    assert (found.n, found.n_units) == (len(tokens), len(set(unit.tolist())))
    assert (found.n_firing, found.n_rule) == (tp + fn, tp + fp)
    assert found.precision == pytest.approx(tp / (tp + fp), rel=1e-5)
    assert found.recall == pytest.approx(tp / (tp + fn), rel=1e-5)
    assert found.balanced_accuracy == pytest.approx((tp / (tp + fn) + tn / (tn + fp)) / 2, rel=1e-5)
    assert found.floors.always_yes.precision == pytest.approx((tp + fn) / len(tokens), rel=1e-5)


def test_the_auroc_is_the_share_of_pairs_of_rows_that_are_in_order(store: Store) -> None:
    tokens, activation, _ = heldout(store)
    holds = np.array([says(t) for t in tokens])
    pairs = [(a > b) + 0.5 * (a == b) for a in activation[holds] for b in activation[~holds]]
    assert ask(store).auroc == pytest.approx(np.mean(pairs), rel=1e-5)


def test_the_best_single_token_is_chosen_on_explain_and_scored_on_heldout(store: Store) -> None:
    first = store.n_rows("explain")
    fires = dense(store, 0) > 0
    held = {t: np.array([t in {store.tokens[k] for k in store.tokens_of_sample(s).tolist()}
                         for s in range(store.manifest.n_samples)]) for t in store.tokens}  # fmt: skip

    def accuracy(token: str, part: slice) -> float:
        here, fired = held[token][part], fires[part]
        return float((here[fired].mean() + (~here[~fired]).mean()) / 2)

    best = max(store.tokens, key=lambda t: accuracy(t, slice(first)))
    floor = ask(store).floors.best_single_token
    assert floor.token == best
    assert floor.balanced_accuracy == pytest.approx(accuracy(best, slice(first, None)), rel=1e-5)
    assert ask(store, split="explain").floors.best_single_token.balanced_accuracy == pytest.approx(
        accuracy(best, slice(first)), rel=1e-5
    )


def test_a_planted_rule_beats_its_floors_and_a_part_of_it_does_not(store: Store) -> None:
    whole, token, noise = ask(store), ask(store, "token:s6"), ask(store, feature=1)
    assert whole.beats_floor
    assert whole.low > whole.floors.best_single_token.balanced_accuracy
    assert whole.floors.best_single_token.difference_low > 0
    assert not token.beats_floor
    assert token.floors.best_single_token.token == "s6"
    assert token.floors.best_single_token.difference == 0
    low, high = (
        token.floors.best_single_token.difference_low,
        token.floors.best_single_token.difference_high,
    )
    assert low < 0 < high  # two rules that agree on what was seen may differ on what was not
    assert not noise.beats_floor
    assert noise.low < 0.5 < noise.high


def test_where_limits_the_rows_of_the_test_and_of_the_choice_of_the_token(store: Store) -> None:
    found = ask(store, where="weapon=w1", min_n=1)
    parts = [ask(store, where=f"weapon=w{i}", min_n=1) for i in range(3)]
    whole = ask(store)
    assert sum(p.n for p in parts) == whole.n > found.n
    assert sum(p.tp for p in parts) == whole.tp
    assert found.counter_examples.rows
    assert {row[found.counter_examples.columns.index("weapon")] for row in found.counter_examples.rows} == {
        "w1"
    }


def test_the_best_token_of_a_slice_is_chosen_in_that_slice() -> None:
    """With weapon a the feature goes with x, with weapon b, which is rarer, with y."""
    generator = np.random.default_rng(3)
    samples, activations = [], {}
    for i in range(400):
        tokens = tuple(t for t in ("x", "y") if generator.random() < 0.5)
        weapon = "a" if i % 4 else "b"
        samples.append(WorldSample(tokens, unit=str(i), groups={"weapon": weapon}))
        if ("x" if weapon == "a" else "y") in tokens:
            activations[0, i, 0] = 1.0
    store = memory_store(World("set", 1, tuple(samples), activations))
    best = {w: ask(store, "token:x", where=w, min_n=5).floors.best_single_token for w in (None, "weapon=b")}
    assert [floor.token for floor in best.values()] == ["x", "y"]
    assert best["weapon=b"].balanced_accuracy == 1
    assert 0.6 < best[None].balanced_accuracy < 0.95


def test_a_rule_that_is_better_by_less_than_its_interval_does_not_beat_the_floor(store: Store) -> None:
    few = [ask(store, where=f"weapon=w{i} and token:{t}", min_n=5) for i in range(3) for t in "yz"]
    undecided = 0
    known = [found for found in few if found.low is not None]
    for found in [*known, ask(store), ask(store, "token:s12"), ask(store, "not token:x")]:
        floor = max(0.5, found.floors.best_single_token.balanced_accuracy)
        assert found.beats_floor == (found.low > floor)
        undecided += found.low <= floor < found.balanced_accuracy
    assert undecided


def test_counter_examples_are_of_the_explain_split_whatever_is_tested(store: Store) -> None:
    for split in ("explain", "heldout"):
        table = ask(store, split=split, limit=20).counter_examples
        cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        assert {c["error"] for c in cells} == {"missed", "false_alarm"}
        missed = [c["activation"] for c in cells if c["error"] == "missed"]
        assert missed == sorted(missed, reverse=True)
        row_of = {int(s): r for r, s in enumerate(store.source)}
        rows = np.array([row_of[c["sample"]] for c in cells])
        assert (rows < store.n_rows("explain")).all()
        assert len(np.unique(store.row_unit[rows[: len(missed)]])) == len(missed)
        for c in cells:
            tokens = set(c["text"].split(", ")) if c["text"] else set()
            assert says(tokens) == (c["error"] == "false_alarm")
            assert (c["activation"] > 0) == (c["error"] == "missed")


def test_the_seed_draws_the_false_alarms_and_nothing_else(store: Store) -> None:
    first, second = ask(store, seed=0), ask(store, seed=1)
    assert first.counter_examples != second.counter_examples
    assert ask(store, limit=0).counter_examples.rows == []
    left = {"counter_examples", "seed", "evidence"}
    assert first.model_dump(exclude=left) == second.model_dump(exclude=left)


def test_each_different_held_out_test_is_counted_once(store: Store) -> None:
    asked = [RULE, "token:y", "not token:x and family:swim>=6", f" ({RULE}) ", RULE]
    assert [ask(store, rule).n_tests_on_heldout for rule in asked] == [1, 2, 3, 3, 3]
    assert ask(store, where="weapon=w1").n_tests_on_heldout == 4
    assert ask(store, seed=7, limit=3).n_tests_on_heldout == 4
    assert ask(store, split="explain").n_tests_on_heldout == 4
    assert ask(store, feature=1).n_tests_on_heldout == 1


def test_the_same_call_gives_the_same_bytes_and_the_number_of_tests_is_not_evidence(store: Store) -> None:
    first = ask(store)
    assert ask(store).model_dump_json() == first.model_dump_json()
    ask(store, "token:y")
    again = ask(store)
    assert (first.n_tests_on_heldout, again.n_tests_on_heldout) == (1, 2)
    assert again.evidence == first.evidence


def test_a_store_in_a_folder_is_recorded_beside_it_or_where_labels_says(world: World, folder: Path) -> None:
    place = import_world(world, folder)
    assert ask(open_store(place)).n_tests_on_heldout == 1
    assert (folder / "store.labels.sqlite").is_file()
    assert ask(open_store(place), "token:y").n_tests_on_heldout == 2
    elsewhere = open_store(place, labels=folder / "mine.sqlite")
    assert ask(elsewhere).n_tests_on_heldout == 1
    assert n_tests(LabelFile(folder / "mine.sqlite"), elsewhere.fingerprint, 0) == 1


def test_a_held_out_test_that_cannot_be_recorded_is_refused(world: World, folder: Path) -> None:
    place = import_world(world, folder)
    nowhere = Store(open_store(place).backend)
    with pytest.raises(
        BadInput, match=r"has no place to record held-out tests; name a file with --labels FILE"
    ):
        ask(nowhere)
    assert ask(nowhere, split="explain").n_tests_on_heldout is None
    with pytest.raises(BadInput, match=r"cannot be used: unable to open"):
        ask(open_store(place, labels=folder / "no" / "such.sqlite"))
    (folder / "notes.txt").write_text("not a database\n" * 50, encoding="utf-8")
    with pytest.raises(BadStore, match=r"file is not a database"):
        ask(open_store(place, labels=folder / "notes.txt"))


@pytest.mark.parametrize("rule", ["activation>0", "region=core", "token:y or not region in (silent, floor)"])
def test_a_rule_that_reads_the_activation_is_refused(store: Store, rule: str) -> None:
    for split in ("heldout", "explain"):
        with pytest.raises(
            BadInput, match=r"reads the feature's own activation, so it would be tested against"
        ):
            ask(store, rule, split=split)


def test_where_may_read_the_activation_on_explain_only(store: Store) -> None:
    found = ask(store, split="explain", where="activation<2")
    assert any("chosen by what the rule predicts" in w for w in found.warnings)
    with pytest.raises(BadInput, match=r"chooses held-out rows by the feature's own activation"):
        ask(store, where="activation<2")
    assert ask(store).n_tests_on_heldout == 1  # the refused one was not looked at


def test_too_little_data_gives_null_with_the_reason_and_the_counts(store: Store) -> None:
    found = ask(store, feature=2)
    assert (found.n_firing, found.tp, found.fn) == (0, 0, 0)
    null = [found.recall, found.balanced_accuracy, found.low, found.high, found.beats_floor]
    assert null == [None] * 5
    assert found.reason == "firing rows: fewer than 20 or of fewer than 10 units"
    assert found.floors.best_single_token is None
    assert found.floors.always_no.balanced_accuracy is None
    assert found.auroc == 0.5  # everything ties at 0
    rare = ask(store, "family:swim>=12 and token:x and token:y and token:z")
    assert rare.n_rule < 20
    assert (rare.precision, rare.auroc) == (None, None)
    assert rare.balanced_accuracy is not None
    assert rare.reason == "rows with the rule: fewer than 20 or of fewer than 10 units"
    assert ask(store, "family:swim>=12 and token:x and token:y", min_n=1).precision is not None


def test_a_rule_that_never_holds_is_scored_as_always_no(store: Store) -> None:
    found = ask(store, "token:x and not token:x")
    assert (found.tp, found.fp, found.n_rule, found.recall, found.balanced_accuracy) == (0, 0, 0, 0.0, 0.5)
    assert found.precision is None
    assert found.warnings == [
        "the rule holds on no row that was tested: this says nothing about where it would"
    ]


def test_unknown_names_and_features_are_refused_with_the_nearest(store: Store) -> None:
    with pytest.raises(UnknownName, match="swim"):
        ask(store, "family:swin>=6")
    with pytest.raises(UnknownName, match="has 0 to 2"):
        ask(store, feature=3)
    with pytest.raises(BadInput):
        ask(store, "")


def test_a_sampled_store_is_refused(store: Store) -> None:
    store.manifest = store.manifest.model_copy(update={"coverage": "sampled"})
    with pytest.raises(NotInStore, match="test_rule needs every activation"):
        ask(store)


def test_a_store_without_held_out_rows_answers_with_null(world: World) -> None:
    stores = (one_unit(world, seed) for seed in range(20))
    all_explain = next(s for s in stores if s.n_rows("explain") == s.n_rows("all"))
    found = ask(all_explain)
    assert (found.n, found.n_units, found.balanced_accuracy, found.n_tests_on_heldout) == (0, 0, None, 1)


def one_unit(world: World, split_seed: int) -> Store:
    few = tuple(replace(s, unit="one") for s in world.samples[:30])
    kept = {k: v for k, v in world.activations.items() if k[1] < 30}
    return memory_store(replace(world, samples=few, activations=kept, split_seed=split_seed))


def test_scope_says_which_tokens_a_rule_sees(code: Store) -> None:
    """Feature 1 of `texts` fires on the position after `def`."""
    before = ask(code, "token:def", feature=1, scope="before", window=1, min_n=1)
    at = ask(code, "token:def", feature=1, min_n=1)
    assert (before.recall, before.precision, before.fn, before.fp) == (1.0, 1.0, 0, 0)
    assert at.recall < 0.5
    assert before.floors.best_single_token.token == "def"
    # the same rule seen otherwise is another test; a rule that reads no token is the same in every scope
    assert before.n_tests_on_heldout == 1
    assert at.n_tests_on_heldout == 2
    assert ask(code, "kind=code", feature=1).n_tests_on_heldout == 3
    assert ask(code, "kind=code", feature=1, scope="sample").n_tests_on_heldout == 3
