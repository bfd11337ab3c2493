"""What two tokens do together: by hand, against loops over units, and planted AND, XOR, OR and nothing."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.analysis.intervals import contrast, mean_interval, rate_interval, standard_error
from saeinterp_mcp.errors import BadInput, UnknownName
from saeinterp_mcp.operations.token_interactions import token_interactions
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import FamilyInfo
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from saeinterp_mcp.store.open import open_store
from tests.operations.brute import arms, dense
from tests.operations.test_token_influence import crowd, presence
from tests.worlds import builds, import_world, texts


def table(result: Any) -> dict[tuple[str, ...], dict[str, Any]]:
    """Rows by set."""
    return {tuple(row[0]): dict(zip(result.columns, row, strict=True)) for row in result.rows}


def levels_table(result: Any) -> dict[tuple[int, int], dict[str, Any]]:
    """Rows by high and low level."""
    return {(row[0], row[1]): dict(zip(result.columns, row, strict=True)) for row in result.rows}


# by hand, from the rows of tests.worlds.builds


def test_a_feature_of_two_tokens_together_is_all_interaction(gear: Store) -> None:
    result = token_interactions(gear, 2, tokens=["comeback", "ninja"], min_n=1, split="all")
    row = table(result)["comeback", "ninja"]
    assert [row[f"n_{cell}"] for cell in ("11", "10", "01", "00")] == [3, 3, 3, 3]
    assert [row[f"mean_{cell}"] for cell in ("11", "10", "01", "00")] == [4.0, 0.0, 0.0, 0.0]
    assert [row[f"rate_{cell}"] for cell in ("11", "10", "01", "00")] == [1.0, 0.0, 0.0, 0.0]
    assert (row["interaction"], row["rate_interaction"], row["effect"], row["support"]) == (
        4.0,
        1.0,
        4.0,
        0.25,
    )
    # 3 rows together, and 6 * 6 / 12 by chance
    assert row["lift"] == 1.0


def test_a_combination_never_observed_is_null_with_a_reason(gear: Store) -> None:
    result = token_interactions(gear, 0, tokens=["swim_6", "ninja"], min_n=1, split="all")
    row = table(result)["swim_6", "ninja"]
    assert (row["n_11"], row["mean_11"], row["interaction"], row["q"]) == (0, None, None, None)
    assert row["reason"] == "11 never observed"


def test_few_rows_are_null_with_the_cells_named(gear: Store) -> None:
    row = table(token_interactions(gear, 2, tokens=["comeback", "ninja"], split="all"))["comeback", "ninja"]
    assert (row["n_11"], row["mean_11"], row["rate_11"], row["effect"]) == (3, None, None, None)
    assert row["reason"] == "too few rows or units: 11, 10, 01, 00"


def test_two_levels_of_a_family_are_no_pair(gear: Store) -> None:
    named = token_interactions(gear, 0, tokens=["swim_3", "swim_6", "ninja"], families=["swim"], min_n=1)
    assert sorted(table(named)) == [("ninja", "swim"), ("swim_3", "ninja"), ("swim_6", "ninja")]


def test_a_family_stands_for_any_level_or_for_those_from_one_on(gear: Store) -> None:
    rows = table(token_interactions(gear, 0, families=["swim", "swim>=6", "comeback"], min_n=1, split="all"))
    # comeback with swim: rows 6 and 9; with swim at 6: row 6
    assert {names: row["n_11"] for names, row in rows.items()} == {
        ("swim", "comeback"): 2,
        ("swim>=6", "comeback"): 1,
    }


def test_levels_below_one_another_are_compared_by_hand() -> None:
    """Eight views of a level of 6, of which four lost the token of 3."""
    family = FamilyInfo(name="s", encoding="cumulative", levels=(3, 6), tokens={"s_3": 3, "s_6": 6})
    views = [("s_3", "s_6")] * 4 + [("s_6",)] * 4 + [("s_3",)] * 4
    samples = tuple(WorldSample(tokens, f"u{i}") for i, tokens in enumerate(views))
    world = World("set", 1, samples, {(0, i, 0): 1.0 + (i < 4) for i in range(8)}, (family,))
    result = token_interactions(
        memory_store(world), 0, families=["s"], method="within_family", min_n=1, split="all"
    )
    row = levels_table(result)[6, 3]
    assert (row["n_with"], row["n_without"], row["mean_with"], row["mean_without"]) == (4, 4, 2.0, 1.0)
    assert (row["effect"], row["rate_difference"]) == (1.0, 0.0)
    assert any("masked" in warning for warning in result.warnings)


# against loops


def brute_pair(value: Any, unit: Any, first: Any, second: Any, keep: Any, largest: float) -> dict[str, Any]:
    """Cells and contrasts of one pair, from sums by looping over units."""
    masks = [~first & ~second, first & ~second, ~first & second, first & second]
    found: dict[str, Any] = {}
    for name, column in (("mean", value), ("rate", (value > 0).astype(float))):
        sides = [[arms(column, unit, a, b, keep) for b in masks] for a in masks]
        mean = np.array([sides[i][i][0].s[0] / sides[i][i][0].n[0] for i in range(4)])
        covariance = np.zeros((4, 4))
        for i in range(4):
            for j in range(4):
                a, b, cross = sides[i][j]
                total = (
                    cross.ss[0]
                    - mean[i] * cross.ns[0]
                    - mean[j] * cross.sn[0]
                    + mean[i] * mean[j] * cross.nn[0]
                )
                scale = np.sqrt(a.n_units[0] / (a.n_units[0] - 1) * b.n_units[0] / (b.n_units[0] - 1))
                covariance[i, j] = total * scale / (a.n[0] * b.n[0])
            assert np.sqrt(covariance[i, i]) == pytest.approx(standard_error(sides[i][i][0])[0])
        with np.errstate(invalid="ignore", divide="ignore"):
            limits = [
                mean_interval(side[i][0], np.array([largest]))
                if name == "mean"
                else rate_interval(side[i][0])
                for i, side in enumerate(sides)
            ]
        lows, highs = (np.array([limit[k][0] for limit in limits]) for k in (0, 1))
        weights = np.array([1.0, -1.0, -1.0, 1.0])
        low, high = contrast(mean, lows, highs, covariance, weights)
        word = "interaction" if name == "mean" else "rate_interaction"
        found |= {f"{name}_{cell}": mean[i] for i, cell in enumerate(("00", "10", "01", "11"))}
        found |= {word: weights @ mean, f"{word}_low": float(low), f"{word}_high": float(high)}
    return found


@pytest.mark.parametrize("where", [None, "g=x"])
def test_pairs_are_those_of_a_loop_over_units(where: str | None) -> None:
    store = memory_store(crowd(5, 700))
    value, has = dense(store, 0), presence(store)
    unit = np.asarray(store.row_unit[: len(value)])
    keep = np.ones(len(value), bool)
    if where:
        values = store.group("g").values
        keep = np.array([values[k] == "x" for k in store.group_of_samples("g")])[store.row_sample]
    result = token_interactions(store, 0, tokens=["a", "b", "c"], where=where, split="all")
    for (first, second), row in table(result).items():
        true = brute_pair(value, unit, has[first], has[second], keep, value.max())
        for name, expected in true.items():
            assert row[name] == pytest.approx(expected, rel=1e-5, abs=1e-9), name
        assert row["n_11"] == (has[first] & has[second] & keep).sum()
        expected_together = (has[first] & keep).sum() * (has[second] & keep).sum() / keep.sum()
        assert row["lift"] == pytest.approx((row["n_11"] + 0.5) / (expected_together + 0.5), rel=1e-5)


def test_pairs_in_a_window_are_those_of_a_loop_over_positions() -> None:
    store = memory_store(texts())
    value, has = dense(store, 1), presence(store, "before", 3)
    unit = np.asarray(store.row_unit[: len(value)])
    result = token_interactions(store, 1, tokens=["def", "x", "("], scope="before", window=3, split="all")
    assert len(result.rows) == 3
    for (first, second), row in table(result).items():
        true = brute_pair(value, unit, has[first], has[second], np.ones(len(value), bool), value.max())
        for name in ("rate_11", "rate_interaction", "rate_interaction_low", "rate_interaction_high"):
            assert row[name] == pytest.approx(true[name], rel=1e-5), name


def test_at_the_position_itself_two_tokens_never_meet() -> None:
    result = token_interactions(memory_store(texts()), 1, tokens=["def", "x"])
    assert table(result)["def", "x"]["reason"] == "11 never observed"
    assert "no pair was ever observed together; in sequences try scope before or sample" in result.warnings
    assert token_interactions(memory_store(texts()), 1, tokens=["def", "x"], scope="sample").rows


def test_itemsets_count_all_rows_and_not_only_firing_ones() -> None:
    store = memory_store(crowd(6, 900))
    value, has = dense(store, 0, "explain"), presence(store)
    top = float(np.quantile(value[value > 0], 0.995))
    high = value > 0.25 * top
    result = token_interactions(store, 0, tokens=list("abcd"), method="itemsets", size=3, limit=100)
    assert result.rows
    for names, row in table(result).items():
        mine = np.all([has[name][: len(value)] for name in names], axis=0)
        assert (row["n"], row["n_high"]) == (mine.sum(), (mine & high).sum())
        assert row["support_high"] == pytest.approx((mine & high).sum() / high.sum(), rel=1e-5)
        assert row["support_base"] == pytest.approx(mine.mean(), rel=1e-5)
        lift = ((mine & high).sum() + 0.5) / (high.sum() * mine.mean() + 0.5)
        assert row["lift"] == pytest.approx(lift, rel=1e-5)
        if row["effect"] is not None:
            assert row["effect"] == pytest.approx(value[mine].mean() - value[~mine].mean(), rel=1e-5)
            assert row["firing_rate"] == pytest.approx((value[mine] > 0).mean(), rel=1e-5)
    frequent = sum(
        np.all([has[t][: len(value)] for t in names], axis=0)[high].sum() >= np.ceil(0.05 * high.sum())
        for k in (2, 3)
        for names in combinations("abcd", k)
    )
    assert len(result.rows) == frequent
    # 4 + 6 + 4 sets of one to three
    assert f"{14 - result.n_pruned} sets were counted, {result.n_pruned} pruned" in result.summary


def test_itemsets_without_core_rows_are_refused(gear: Store) -> None:
    with pytest.raises(BadInput) as error:
        token_interactions(gear, 2, method="itemsets", min_n=1)
    assert str(error.value) == (
        "feature 2 fires under 20 times in the explain split, so it has no core rows to mine"
    )


# planted

N = 6000
AND, XOR, OR, ADDS, THREE = range(5)
N_NULL = 60


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Rates of 5 % but where the rule of the feature holds, then 50 %; units of two views."""
    rng = np.random.default_rng(21)
    names = [*"abc", *(f"idle{i}" for i in range(5)), "deep_3", "deep_6", "deep_12"]
    has = rng.random((N, len(names))) < [0.4, 0.4, 0.4, *([0.3] * 5), 0.5, 0.3, 0.2]
    a, b, c = (has[:, i] for i in range(3))
    holds = np.stack([a & b, a ^ b, a | b, np.zeros(N, bool), a & b & c], 1)
    rate = np.full((N, 5 + N_NULL), 0.1)
    rate[:, :5] = np.where(holds, 0.5, 0.05)
    rate[:, ADDS] = 0.1 + 0.2 * a + 0.3 * b
    fires = rng.random(rate.shape) < rate
    value = rng.lognormal(0.0, 0.4, rate.shape)
    samples = tuple(
        WorldSample(tuple(t for t, here in zip(names, row, strict=True) if here), f"u{i // 2}")
        for i, row in enumerate(has)
    )
    activations = {(int(f), int(i), 0): float(value[i, f]) for i, f in zip(*np.nonzero(fires), strict=True)}
    families = (
        *(FamilyInfo(name=f"f{t}", encoding="exclusive", levels=(1,), tokens={t: 1}) for t in "abc"),
        FamilyInfo(
            name="deep",
            encoding="cumulative",
            levels=(3, 6, 12),
            tokens={"deep_3": 3, "deep_6": 6, "deep_12": 12},
        ),
    )
    world = World("set", rate.shape[1], samples, activations, families)
    return open_store(import_world(world, tmp_path_factory.mktemp("together")))


@pytest.mark.parametrize(("feature", "truth"), [(AND, 0.45), (XOR, -0.9), (OR, -0.45)])
def test_planted_pairs_come_first_with_their_interaction(planted: Store, feature: int, truth: float) -> None:
    result = token_interactions(planted, feature)
    names, row = next(iter(table(result).items()))
    assert set(names) == {"fa", "fb"}
    assert row["rate_interaction_low"] <= truth <= row["rate_interaction_high"]
    assert row["q"] < 1e-6
    assert (row["interaction_high"] < 0) == (truth < 0)
    assert all(other["q"] > 0.01 for pair, other in table(result).items() if set(pair) != {"fa", "fb"})


def test_candidates_are_families_and_free_tokens_and_their_number_is_said(planted: Store) -> None:
    result = token_interactions(planted, XOR)
    assert set(result.items) == {"fa", "fb", "fc", "deep", *(f"idle{i}" for i in range(5))}
    assert result.summary.startswith(
        "9 tokens or families make 36 pairs, 36 with enough rows in all four cells."
    )


def test_effects_that_add_up_are_no_interaction(planted: Store) -> None:
    row = table(token_interactions(planted, ADDS, families=["fa", "fb"]))["fa", "fb"]
    assert row["q"] > 0.05
    assert row["rate_interaction_low"] < 0 < row["rate_interaction_high"]
    assert row["effect_low"] > 0


def test_little_interacts_where_nothing_was_planted(planted: Store) -> None:
    found = [table(token_interactions(planted, f, limit=50)) for f in range(5, 5 + N_NULL)]
    # 60 features of 36 pairs: any q under 0.05 in 5 % at most, and 8 or fewer with probability 0.99
    assert sum(any(row["q"] < 0.05 for row in rows.values()) for rows in found) <= 8


def test_given_a_third_token_the_two_interact_only_beside_it(planted: Store) -> None:
    beside = table(token_interactions(planted, THREE, families=["fa", "fb"], given="token:c"))["fa", "fb"]
    without = table(token_interactions(planted, THREE, families=["fa", "fb"], given="not token:c"))[
        "fa", "fb"
    ]
    assert beside["rate_interaction_low"] <= 0.45 <= beside["rate_interaction_high"]
    assert without["rate_interaction_low"] < 0 < without["rate_interaction_high"]


@pytest.mark.parametrize(
    ("feature", "cores"),
    [(AND, [("a", "b")]), (OR, [("a",), ("b",)]), (THREE, [("a", "b", "c")])],
)
def test_minimal_cores_are_the_planted_sets(
    planted: Store, feature: int, cores: list[tuple[str, ...]]
) -> None:
    tokens = [*"abc", "idle0", "idle1"]
    result = token_interactions(planted, feature, tokens=tokens, method="minimal_cores", size=3, limit=100)
    found = table(result)
    assert sorted(names for names, row in found.items() if row["core"]) == cores
    assert result.details is not None
    drops: list[dict[str, Any]] = [
        dict(zip(result.details.columns, row, strict=True)) for row in result.details.rows
    ]
    assert {(tuple(row["set"]), row["dropped"]) for row in drops} == {
        (core, one) for core in cores for one in core
    }
    assert all(row["loss_low"] > 0 and row["kept"] < 0.8 and row["q"] < 0.05 for row in drops)


def test_a_core_says_its_rate_its_coverage_and_why_a_set_is_none(planted: Store) -> None:
    result = token_interactions(
        planted, AND, tokens=["a", "b", "idle0"], method="minimal_cores", size=3, limit=100
    )
    found = table(result)
    value, has = dense(planted, AND, "explain"), presence(planted)
    both = (has["a"] & has["b"])[: len(value)]
    row = found["a", "b"]
    assert row["firing_rate"] == pytest.approx((value[both] > 0).mean(), rel=1e-5)
    assert row["coverage"] == pytest.approx(both[value > 0].mean(), rel=1e-5)
    assert row["rate_low"] <= 0.5 <= row["rate_high"]
    assert found["a",]["member"] == "b"
    three = found["a", "b", "idle0"]
    assert (three["core"], three["member"], three["reason"]) == (False, "idle0", "the member is not needed")


def test_itemsets_of_a_planted_pair_stand_out_and_lose_nothing_to_their_parts(planted: Store) -> None:
    result = token_interactions(planted, AND, tokens=[*"abc", "idle0"], method="itemsets", size=3, limit=100)
    names, row = next(iter(table(result).items()))
    assert names[:2] == ("a", "b")
    pair = table(result)["a", "b"]
    assert pair["lift"] > 1.5 * pair["lift_of_part"]
    assert pair["effect_low"] > 0
    assert row["q"] < 1e-6


def test_levels_of_a_family_without_meaning_do_not_matter(planted: Store) -> None:
    result = token_interactions(planted, AND, families=["deep"], method="within_family")
    rows = levels_table(result)
    assert set(rows) == {(6, 3), (12, 3), (12, 6)}
    value, has = dense(planted, AND, "explain"), presence(planted)
    high, low = has["deep_12"][: len(value)], has["deep_3"][: len(value)]
    row = rows[12, 3]
    assert (row["n_with"], row["n_without"]) == ((high & low).sum(), (high & ~low).sum())
    assert row["effect"] == pytest.approx(value[high & low].mean() - value[high & ~low].mean(), rel=1e-5)
    assert all(one["q"] > 0.05 for one in rows.values())


def test_an_exclusive_family_has_no_two_levels(gear: Store) -> None:
    with pytest.raises(BadInput) as error:
        token_interactions(gear, 0, families=["ninja"], method="within_family")
    assert str(error.value) == (
        "family 'ninja' is exclusive: a sample carries one of its levels, so a low one is never seen beside a high "
        "one. Cumulative families: swim"
    )


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"tokens": ["ninja"]},
            BadInput,
            "an interaction needs two tokens or families; name more, or none for the surest",
        ),
        ({"tokens": ["ninja", "nnja"]}, UnknownName, "no token 'nnja' in store 'builds'; nearest: 'ninja'"),
        (
            {"families": ["swm", "ninja"]},
            UnknownName,
            "no family 'swm' in store 'builds'; nearest: 'swim'",
        ),
        (
            {"tokens": ["swim_3", "swim_6"]},
            BadInput,
            "all that is named is of one family, and two levels are no set; try within_family",
        ),
        (
            {"families": ["swim>=9", "ninja"]},
            UnknownName,
            "family 'swim' has no level 9 or above; its levels: 3, 6",
        ),
        (
            {"tokens": ["ninja", "comeback"], "size": 3},
            BadInput,
            "size 3: pairs are of 2; itemsets and minimal_cores go up to 4",
        ),
        (
            {"method": "within_family"},
            BadInput,
            "within_family is about the levels of one family: give families one name, and no tokens",
        ),
    ],
)
def test_a_call_that_does_not_fit_is_refused(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as error:
        token_interactions(memory_store(builds()), 0, **arguments)
    assert str(error.value) == message


def test_pages_of_pairs_hold_each_once(planted: Store) -> None:
    first = token_interactions(planted, OR, limit=30)
    assert (len(first.rows), first.more) == (30, 6)
    second = token_interactions(planted, OR, limit=30, cursor=first.next_cursor)
    assert len(table(first).keys() | table(second).keys()) == 36
