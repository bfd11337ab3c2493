"""Every operation on the world `builds`, whose numbers are worked out beside its definition in tests/worlds.py."""

import math
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.errors import BadInput, NotInStore, UnknownName
from saeinterp_mcp.operations.base import Result
from saeinterp_mcp.operations.decoder_influence import decoder_influence
from saeinterp_mcp.operations.family_heatmap import draw_heatmap, family_heatmap
from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.feature_examples import feature_examples
from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.features_search import features_search
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.similar_features import similar_features
from saeinterp_mcp.operations.store_status import store_status
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.served import ServedStores


def rows(result: Any, key: str = "") -> dict[Any, dict[str, Any]]:
    """Rows of a table by their first cell, as dictionaries."""
    table = getattr(result, key) if key else result
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_status_counts_what_the_world_holds(gear: Store) -> None:
    (status,) = store_status(ServedStores([gear])).stores
    assert (status.kind, status.n_features, status.n_samples, status.n_positions, status.n_activations) == (
        "set",
        5,
        12,
        12,
        23,
    )
    assert [(f.name, f.n_levels, f.encoding) for f in status.families] == [
        ("swim", 2, "cumulative"),
        ("comeback", 1, "exclusive"),
        ("ninja", 1, "exclusive"),
    ]
    assert [(g.name, g.n_values, g.attributes) for g in status.groups] == [
        ("weapon", 5, ["class"]),
        ("season", 2, []),
    ]


def test_overview_counts_silent_samples(gear: Store) -> None:
    firing = feature_overview(gear, 0, split="all").firing
    assert (firing.n, firing.n_firing, firing.n_units, firing.n_firing_units) == (12, 5, 12, 5)
    assert firing.firing_rate == pytest.approx(5 / 12, rel=1e-5)
    assert firing.mean == pytest.approx(21 / 12, rel=1e-5)
    assert firing.mean_when_firing == pytest.approx(4.2)
    assert firing.std_when_firing == pytest.approx(math.sqrt(2.7), rel=1e-5)
    assert (firing.median_when_firing, firing.max, firing.effective_max) == (3.0, 6.0, None)


def test_a_feature_that_never_fires_has_an_upper_bound_and_no_zero_interval(gear: Store) -> None:
    overview = feature_overview(gear, 3, split="all")
    assert (overview.firing.n_firing, overview.firing.firing_rate) == (0, 0.0)
    # rule of three by units: 3 / 12
    assert (overview.firing.rate_low, overview.firing.rate_high) == (0.0, 0.25)
    assert "the feature never fires in this slice" in overview.warnings


def test_sweep_uses_the_highest_level_of_a_cumulative_family(gear: Store) -> None:
    sweep = family_sweep(gear, 0, "swim", min_n=1, split="all")
    assert (sweep.baseline.n, sweep.baseline.n_firing, sweep.baseline.mean) == (7, 0, 0.0)
    table = rows(sweep)
    assert {
        level: (r["n"], r["firing_rate"], r["mean"], r["effect"], r["mean_when_firing"])
        for level, r in table.items()
    } == {
        3: (3, 1.0, 3.0, 3.0, 3.0),
        6: (2, 1.0, 6.0, 6.0, 6.0),
    }
    assert sweep.trend.spearman == pytest.approx(1.0)
    assert sweep.trend.monotone is True


def test_sweep_gives_null_and_a_reason_under_min_n(gear: Store) -> None:
    row = rows(family_sweep(gear, 0, "swim", split="all"))[3]
    assert (row["n"], row["n_units"], row["mean"], row["effect"], row["q"]) == (3, 3, None, None, None)
    assert row["reason"] == "fewer than 20 rows or 10 units"


def test_given_holds_another_family_still(gear: Store) -> None:
    sweep = family_sweep(gear, 0, "swim", given="family:ninja>=1", min_n=1, split="all")
    # with ninja: rows 3 4 5 7 9 10; swim level 3 on 5 and 9
    assert (sweep.baseline.n, rows(sweep)[3]["n"], rows(sweep)[6]["n"]) == (4, 2, 0)
    assert rows(sweep)[6]["reason"] == "never observed"
    assert any("never observed" in warning for warning in sweep.warnings)


def test_where_limits_the_rows(gear: Store) -> None:
    sweep = family_sweep(gear, 0, "swim", where="weapon.class=roller", min_n=1, split="all")
    assert (sweep.baseline.n, rows(sweep)[3]["n"], rows(sweep)[6]["n"]) == (3, 2, 1)


def test_stratified_effect_holds_the_group_still(gear: Store) -> None:
    sweep = family_sweep(gear, 0, "swim", min_n=1, split="all")
    # strata with both: roller (2 of 3, mean 4.5 - 0), brush (1 of 3, 3 - 0), blaster (1 of 3, 6 - 0),
    # charger (1 of 2, 3 - 0)
    weights = {"roller": 2 / 3, "brush": 2 / 3, "blaster": 2 / 3, "charger": 1 / 2}
    differences = {"roller": 4.5, "brush": 3.0, "blaster": 6.0, "charger": 3.0}
    expected = sum(weights[w] * differences[w] for w in weights) / sum(weights.values())
    assert sweep.stratified_effect is not None
    assert sweep.stratified_effect.value == pytest.approx(expected, rel=1e-5)
    assert sweep.stratified_effect.n_strata == 4


def test_heatmap_has_the_interaction_that_was_planted(gear: Store) -> None:
    heatmap = family_heatmap(gear, 2, "comeback", "ninja", min_n=1, split="all")
    cells = {(r[0], r[1]): dict(zip(heatmap.columns, r, strict=True)) for r in heatmap.rows}
    assert {place: (c["n"], c["mean"], c["firing_rate"]) for place, c in cells.items()} == {
        (0, 0): (3, 0.0, 0.0),
        (0, 1): (3, 0.0, 0.0),
        (1, 0): (3, 0.0, 0.0),
        (1, 1): (3, 4.0, 1.0),
    }
    assert (cells[1, 1]["interaction"], cells[1, 1]["rate_interaction"]) == (4.0, 1.0)
    assert cells[1, 0]["interaction"] is None
    assert heatmap.peak is not None
    assert (heatmap.peak.x, heatmap.peak.y, heatmap.peak.mean) == (1, 1, 4.0)


def test_a_feature_that_always_fires_has_no_interaction(gear: Store) -> None:
    heatmap = family_heatmap(gear, 4, "comeback", "ninja", min_n=1, split="all")
    cell = next(dict(zip(heatmap.columns, r, strict=True)) for r in heatmap.rows if r[:2] == [1, 1])
    # 2 - 2 - 2 + 2
    assert (cell["mean"], cell["interaction"], cell["rate_interaction"]) == (2.0, 0.0, 0.0)


def test_a_cell_never_observed_is_missing_and_not_zero(gear: Store) -> None:
    heatmap = family_heatmap(
        gear, 2, "swim", "comeback", where="not (family:swim>=6 and family:comeback>=1)", min_n=1, split="all"
    )
    cell = next(dict(zip(heatmap.columns, r, strict=True)) for r in heatmap.rows if r[:2] == [6, 1])
    assert cell["n"] == 0
    assert {cell[c] for c in ("firing_rate", "mean", "ci_low", "ci_high", "interaction")} == {None}


def test_a_heatmap_draws_a_png(gear: Store) -> None:
    picture = draw_heatmap(family_heatmap(gear, 2, "comeback", "ninja", min_n=1, split="all"))
    assert picture.startswith(b"\x89PNG")
    width, height = (int.from_bytes(picture[i : i + 4], "big") for i in (16, 20))
    assert width <= 800
    assert height <= 600


def test_group_sweep_compares_each_value_with_all_others(gear: Store) -> None:
    table = rows(group_sweep(gear, 1, "weapon", min_n=1, split="all"))
    roller, none = table["roller"], table["(none)"]
    assert (roller["n"], roller["mean"], roller["effect"], roller["base_share"]) == (3, 1.5, 1.5, 0.25)
    assert none["effect"] == pytest.approx(-4.5 / 11, rel=1e-5)


def test_group_sweep_by_attribute_adds_up_its_values(gear: Store) -> None:
    by_class = rows(group_sweep(gear, 1, "class", min_n=1, split="all"))
    assert (by_class["roller"]["n"], by_class["roller"]["mean"], by_class["roller"]["effect"]) == (
        6,
        0.75,
        0.75,
    )
    assert by_class == rows(group_sweep(gear, 1, "weapon.class", min_n=1, split="all"))


def test_decoder_influence_is_the_centred_product(gear: Store) -> None:
    found = decoder_influence(gear, 0)
    table = rows(found, "promoted")
    assert table["a"]["effect"] == 2.0
    assert found.promoted.rows[0][0] == "a"
    assert {row[1] for row in found.suppressed.rows[:2]} == {-1.0}
    assert found.effect_norm == pytest.approx(math.sqrt(6), rel=1e-5)
    assert found.effect_percentile == 20.0
    # a random direction of length 1 has effect N(0, 5 / 2) on output a
    assert table["a"]["percentile"] == pytest.approx(
        100 * 0.5 * (1 + math.erf(2 / math.sqrt(5 / 2) / math.sqrt(2))), rel=1e-5
    )
    assert found.basis == "weights"


def test_similar_by_decoder_is_the_cosine(gear: Store) -> None:
    found = similar_features(gear, 0, by="decoder")
    assert [row[0] for row in found.rows] == [2, 1, 3, 4]
    assert found.rows[0][1] == pytest.approx(1 / math.sqrt(2), rel=1e-5)


def test_search_by_token_says_where_the_feature_fires(gear: Store) -> None:
    found = features_search(gear, query="swim_6", split="all")
    first = dict(zip(found.columns, found.rows[0], strict=True))
    assert (found.rows[0][0], first["token_rate"], first["share_of_firings"]) == (0, 1.0, 0.4)


def test_search_filters_and_sorts_by_metrics(gear: Store) -> None:
    found = features_search(
        gear, by="metric", sort="firing_rate", where="firing_rate>0.2 and max<5", split="all"
    )
    assert [row[0] for row in found.rows] == [4, 1, 2]
    assert found.total == 3


def test_search_leaves_out_what_never_fires_and_says_so(gear: Store) -> None:
    found = features_search(gear)
    assert 3 not in [row[0] for row in found.rows]
    assert "1 features that never fire are left out; give where to see them" in found.warnings


def test_examples_come_strongest_first_and_page(gear: Store) -> None:
    first = feature_examples(gear, 0, split="all", limit=2)
    assert [row[2] for row in first.rows] == [6.0, 6.0]
    assert (first.total, first.more) == (5, 3)
    second = feature_examples(gear, 0, split="all", limit=4, cursor=first.next_cursor)
    assert [row[2] for row in second.rows] == [3.0, 3.0, 3.0]
    assert second.next_cursor is None


def test_a_cursor_of_another_call_is_refused(gear: Store) -> None:
    cursor = feature_examples(gear, 0, split="all", limit=2).next_cursor
    with pytest.raises(BadInput, match="the cursor belongs to another store or call"):
        feature_examples(gear, 4, split="all", limit=2, cursor=cursor)
    with pytest.raises(BadInput, match="the cursor is not one of ours"):
        feature_examples(gear, 0, split="all", cursor="rubbish")


def test_examples_can_be_limited_by_token_and_group(gear: Store) -> None:
    found = feature_examples(gear, 0, split="all", contains="ninja", group="weapon=brush")
    assert [(row[2], row[3]) for row in found.rows] == [(3.0, "ninja, swim_3")]


def test_silent_examples_do_not_fire(gear: Store) -> None:
    found = feature_examples(gear, 0, pick="silent")
    assert {row[2] for row in found.rows} == {0.0}
    assert not any("swim" in str(row[3]) for row in found.rows)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda s: family_sweep(s, 9, "swim"),
            UnknownName,
            "feature 9 is not in store 'builds', which has 0 to 4; features_search finds some",
        ),
        (
            lambda s: family_sweep(s, 0, "swimm"),
            UnknownName,
            "no family 'swimm' in store 'builds'; nearest: 'swim'",
        ),
        (
            lambda s: group_sweep(s, 0, "wepon"),
            UnknownName,
            "no group or attribute 'wepon' in store 'builds'; nearest: 'weapon', 'weapon.class', 'season'",
        ),
        (
            lambda s: family_sweep(s, 0, "swim", group="x"),
            UnknownName,
            "no group or attribute 'x' in store 'builds'; there are: 'weapon', 'season', 'weapon.class'",
        ),
        (
            lambda s: family_heatmap(s, 0, "swim", "swim"),
            BadInput,
            "family_x and family_y are both 'swim'; a heatmap needs two families",
        ),
        (
            lambda s: family_sweep(s, 0, "swim", scope="before"),
            BadInput,
            "scope 'before' has no meaning in set store 'builds'; leave it out",
        ),
        (
            lambda s: features_search(s, query="swim_9"),
            UnknownName,
            "the vocabulary of store 'builds' has no token 'swim_9'; nearest: 'swim_6', 'swim_3'",
        ),
        (
            lambda s: features_search(s, sort="size"),
            UnknownName,
            "no metric 'size' to sort by; "
            "there are: firing_rate, n_firing, mean, max, effective_max, effect_norm, importance",
        ),
        (
            lambda s: feature_examples(s, 0, group="weapon=bow"),
            UnknownName,
            "group 'weapon' has no value 'bow'; there are: '(none)', 'blaster', 'brush', 'charger', 'roller'",
        ),
    ],
)
def test_a_wrong_call_is_told_what_there_is(
    gear: Store, call: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        call(gear)
    assert str(error.value) == message


def test_a_store_without_decoder_says_what_to_give(stores: Any) -> None:
    from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store

    bare = memory_store(World("set", 1, (WorldSample(("a",)),), {(0, 0, 0): 1.0}))
    with pytest.raises(
        NotInStore, match="holds no decoder with unembedding, so decoder_influence cannot answer"
    ):
        decoder_influence(bare, 0)


CALLS: list[tuple[Any, dict[str, Any]]] = [
    (feature_overview, {}),
    (feature_overview, {"detail": "detailed", "where": "family:swim=0"}),
    (feature_examples, {"pick": "spread"}),
    (family_sweep, {"family": "swim", "min_n": 1}),
    (family_heatmap, {"family_x": "swim", "family_y": "ninja", "min_n": 1}),
    (group_sweep, {"by": "weapon", "min_n": 1}),
    (decoder_influence, {}),
    (similar_features, {}),
]


@pytest.mark.parametrize("feature", range(5))
@pytest.mark.parametrize(("operation", "arguments"), CALLS, ids=lambda v: getattr(v, "__name__", ""))
def test_both_backends_and_two_calls_give_the_same_answer(
    stores: Any, operation: Any, arguments: dict[str, Any], feature: int
) -> None:
    answers = [operation(stores[b]["builds"], feature, **arguments) for b in ("memory", "zarr", "zarr")]
    assert answers[1].model_dump_json() == answers[2].model_dump_json()
    differs = {"evidence", "next_cursor"}
    first, second = (a.model_dump(mode="json", exclude=differs) for a in answers[:2])
    assert first == second
    assert isinstance(answers[0], Result)


def test_coactivation_in_a_slice_is_the_correlation_of_firing(code: Store) -> None:
    import numpy as np

    from tests.operations.brute import dense

    found = similar_features(code, 0, where="kind=code", split="all")
    info, n = code.group("kind"), code.n_rows("all")
    keep = np.array([info.values[c] == "code" for c in code.group_of_samples("kind")])[code.row_sample[:n]]
    fires = [(dense(code, f) > 0)[keep].astype(float) for f in range(4)]
    for feature, score, *_ in found.rows:
        assert feature is not None
        other = fires[int(feature)]  # type: ignore[arg-type]
        expected = np.corrcoef(fires[0], other)[0, 1] if other.std() > 0 else 0.0
        assert score == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_sampled_store_refuses_what_needs_every_activation(tmp_path: Any) -> None:
    from pipeline.importers.run_import import import_bundle
    from saeinterp_mcp.store.open import open_store
    from tests.worlds import Quiet, builds, write_bundle

    bundle = write_bundle(builds(), tmp_path / "bundle")
    text = (bundle / "bundle.yaml").read_text(encoding="utf-8")
    (bundle / "bundle.yaml").write_text(text + "coverage: sampled\n", encoding="utf-8")
    import_bundle(bundle, tmp_path / "store", progress=Quiet())
    sampled = open_store(tmp_path / "store")
    questions: list[Any] = [
        lambda: family_sweep(sampled, 0, "swim"),
        lambda: family_heatmap(sampled, 0, "swim", "ninja"),
        lambda: group_sweep(sampled, 0, "weapon"),
        lambda: feature_examples(sampled, 0, pick="silent"),
        lambda: feature_examples(sampled, 0, pick="near_miss"),
        lambda: similar_features(sampled, 0),
        lambda: features_search(sampled, query="ninja"),
    ]
    for question in questions:
        with pytest.raises(NotInStore, match="needs every activation, but store 'builds' is sampled"):
            question()
    overview = feature_overview(sampled, 0, split="all")
    assert (overview.firing.firing_rate, overview.firing.mean, overview.firing.max) == (None, None, 6.0)
    assert [row[2] for row in feature_examples(sampled, 0, split="all").rows] == [6.0, 6.0, 3.0, 3.0, 3.0]


def test_features_alike_in_tokens_by_hand(gear: Store, code: Store) -> None:
    """Cosine of (share of the strongest rows with a token) x IDF, worked out from the samples."""
    for store in (gear, code):
        idf = dict(zip(store.tokens, store.backend.table("vocabulary")["idf"].to_list(), strict=True))

        def profile(feature: int, store: Store = store, idf: dict[str, float] = idf) -> dict[str, float]:
            found: dict[str, float] = {}
            rows, values = store.activations(feature)
            inside = rows < store.n_rows("explain")
            for row in sorted(rows[inside], key=lambda r: -values[rows == r][0])[:128]:
                if store.is_sequence:
                    tokens = [int(store.token_of_rows(np.array([row]))[0])]
                else:
                    tokens = store.tokens_of_sample(int(row)).tolist()
                for token in tokens:
                    found[store.tokens[token]] = found.get(store.tokens[token], 0) + idf[store.tokens[token]]
            return found

        def cosine(a: dict[str, float], b: dict[str, float]) -> float:
            dot = sum(a[t] * b.get(t, 0) for t in a)
            lengths = [sum(v * v for v in p.values()) ** 0.5 for p in (a, b)]
            return dot / (lengths[0] * lengths[1]) if all(lengths) else 0.0

        own = profile(0)
        expected = {f: cosine(own, profile(f)) for f in range(1, store.manifest.n_features)}
        found = similar_features(store, 0, "tokens")
        scores = {row[0]: row[1] for row in found.rows}
        assert scores == pytest.approx({f: c for f, c in expected.items() if c > 0}, rel=1e-5)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)  # type: ignore[type-var]
        with pytest.raises(BadInput, match="which where, scope and split cannot change"):
            similar_features(store, 0, "tokens", split="all")
