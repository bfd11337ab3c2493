"""What reading the demo's answers taught us to answer better: position, order, thinning, near misses, silence."""

import numpy as np
import pytest

from saeinterp_mcp.operations.effects import effects_of
from saeinterp_mcp.operations.feature_examples import feature_examples
from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.features_search import features_search
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.slicing import make_slice
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from tests.operations.brute import dense


def test_the_overview_counts_rows_and_firings_by_position(code: Store) -> None:
    value, position = dense(code, 2), np.asarray(code.row_position[:])
    rows = feature_overview(code, 2, split="all").positions.rows
    assert [row[0] for row in rows] == [1, 2, 4, 8]
    for first, last, n, n_firing, rate, mean in rows:
        inside = (position >= first) & (position <= last)
        assert (n, n_firing) == (inside.sum(), (value[inside] > 0).sum())
        assert (rate, mean) == pytest.approx(((value[inside] > 0).mean(), value[inside].mean()), rel=1e-5)


def test_a_feature_that_counts_positions_is_warned_of() -> None:
    samples = tuple(WorldSample(tuple("ab" * 16), f"u{i}") for i in range(40))
    late = {(0, s, p): 1.0 + p / 100 for s in range(40) for p in range(16, 32)}
    spread = {(1, s, p): 1.0 for s in range(40) for p in range(32) if (7 * s + 3 * p) % 4 == 0}
    store = memory_store(World("sequence", 2, samples, {**late, **spread}))
    warned = [
        any("position in the sample explains" in w for w in feature_overview(store, f).warnings)
        for f in (0, 1)
    ]
    assert warned == [True, False]


def test_groups_come_surest_first_and_not_largest_first() -> None:
    """Value `few` has the larger mean difference and an interval that holds 0 nearly; `many` is certain."""
    rng = np.random.default_rng(1)
    groups = ["many"] * 3000 + ["few"] * 30 + ["rest"] * 3000
    fires = np.concatenate([rng.random(3000) < 0.3, np.arange(30) < 11, rng.random(3000) < 0.1])
    strength = np.where(np.array(groups) == "few", rng.lognormal(0, 1.5, len(groups)), 1.0)
    samples = tuple(WorldSample(("t",), f"u{i}", {"g": g}) for i, g in enumerate(groups))
    store = memory_store(
        World("set", 1, samples, {(0, int(i), 0): float(strength[i]) for i in np.flatnonzero(fires)})
    )
    sweep = group_sweep(store, 0, "g", split="all")
    effects = effects_of(make_slice(store, 0, "all", None).labels("group.g"), 20)
    sure = {
        str(row[0]): abs(float(effects.sure_effect[store.group("g").values.index(str(row[0]))]))
        for row in sweep.rows
    }
    assert list(sure.values()) == sorted(sure.values(), reverse=True)
    assert [row[0] for row in sweep.rows][-1] == "few"


def test_a_short_spread_still_spans_the_range(code: Store) -> None:
    whole = [row[2] for row in feature_examples(code, 2, pick="spread", limit=200).rows]
    short = feature_examples(code, 2, pick="spread", limit=3)
    assert len(whole) > 10
    assert [short.rows[0][2], short.rows[-1][2]] == [whole[0], whole[-1]]
    assert (len(short.rows), short.total, short.next_cursor) == (3, len(whole), None)


@pytest.mark.parametrize("feature", range(3))
def test_near_misses_of_a_slice_that_leaves_nothing_out_are_the_stored_ones(
    code: Store, feature: int
) -> None:
    stored, drawn = (
        feature_examples(code, feature, pick="near_miss", limit=50, where=w) for w in (None, "activation>=0")
    )
    assert stored.rows == drawn.rows
    assert {row[2] for row in drawn.rows} <= {0.0}


def test_near_misses_are_found_by_the_tokens_of_the_scope_that_is_asked(code: Store) -> None:
    """Feature 0 fires on what follows `(`, but not on `z`; so `( z` is near, and `z` at the position is not."""
    texts = [("(", "a", "z"), ("(", "b", "z"), ("(", "z", "a"), ("a", "b", "z")] * 6
    samples = tuple(WorldSample(text, f"u{i}") for i, text in enumerate(texts))
    after = {(0, s, 1): 1.0 for s, text in enumerate(texts) if text[0] == "(" and text[1] != "z"}
    store = memory_store(World("sequence", 1, samples, after))
    before = feature_examples(store, 0, pick="near_miss", scope="before", window=1)
    at = feature_examples(store, 0, pick="near_miss")
    token = before.columns.index("token")
    assert (before.rows[0][token], before.rows[0][1]) == ("z", 1)
    assert (str(at.rows[0][token]) in "ab", at.rows[0] != before.rows[0]) == (True, True)
    whole, drawn = (
        feature_examples(code, 2, pick="near_miss", scope="before", limit=50, where=w)
        for w in (None, "activation>=0")
    )
    assert whole.rows == drawn.rows


def test_a_slice_where_the_feature_always_fires_has_no_silent_row_and_says_why(gear: Store) -> None:
    found = feature_examples(gear, 4, pick="silent")
    n = gear.n_rows("explain")
    assert found.rows == []
    assert found.warnings == [f"no silent row: the feature fires on all {n} rows of the slice"]


def test_search_names_tokens_that_differ_by_blanks() -> None:
    samples = tuple(WorldSample(("go", " go", "Go")) for _ in range(3))
    store = memory_store(World("sequence", 1, samples, {(0, 0, 0): 1.0}))
    warnings = features_search(store, query="go", split="all").warnings
    assert "other tokens like it: ' go', 'Go'" in warnings
