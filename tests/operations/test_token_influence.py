"""Tokens with and against a feature: by hand, against loops over units, and planted ones of every kind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.analysis.effects import p_values
from saeinterp_mcp.analysis.intervals import benjamini_hochberg, difference, rate_difference
from saeinterp_mcp.analysis.moments import Moments
from saeinterp_mcp.errors import BadInput, NotInStore, SaeInterpError
from saeinterp_mcp.operations.token_influence import token_influence
from saeinterp_mcp.operations.token_interactions import token_interactions
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import FamilyInfo
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from saeinterp_mcp.store.open import open_store
from tests.operations.brute import arms, dense
from tests.worlds import builds, import_world, texts

MANY = 200


def table(result: Any) -> dict[Any, dict[str, Any]]:
    """Rows by token or family."""
    return {row[0]: dict(zip(result.columns, row, strict=True)) for row in result.rows}


# by hand, from the rows of tests.worlds.builds


def test_tokens_are_compared_with_all_rows_that_lack_them(gear: Store) -> None:
    found = table(token_influence(gear, 0, min_n=1, split="all"))
    assert {name: (row["n"], row["n_firing"]) for name, row in found.items()} == {
        "swim_3": (5, 5),
        "swim_6": (2, 2),
        "comeback": (6, 2),
        "ninja": (6, 2),
    }
    # swim_3: (3+6+3+6+3)/5 - 0/7; swim_6: 12/2 - 9/10; comeback: 9/6 - 12/6; ninja: 6/6 - 15/6
    effects = {name: row["effect"] for name, row in found.items()}
    assert effects == {"swim_3": 4.2, "swim_6": 5.1, "comeback": -0.5, "ninja": -1.5}
    assert (found["comeback"]["firing_rate"], found["comeback"]["rate_without"]) == (0.333333, 0.5)
    assert found["comeback"]["coverage_base"] == 0.5


def test_any_level_of_a_family_is_compared_with_none(gear: Store) -> None:
    found = table(token_influence(gear, 0, by="family", min_n=1, split="all"))
    assert {name: row["effect"] for name, row in found.items()} == {
        "swim": 4.2,
        "comeback": -0.5,
        "ninja": -1.5,
    }


def test_few_rows_are_null_with_a_reason(gear: Store) -> None:
    result = token_influence(gear, 0, split="all")
    row = table(result)["ninja"]
    assert (row["effect"], row["role"], row["q"]) == (None, None, None)
    assert row["reason"] == "fewer than 20 rows or 10 units"
    assert result.summary == "None of the tokens has enough rows with it and without it for a comparison."


def test_a_feature_that_never_fires_has_no_roles(gear: Store) -> None:
    result = token_influence(gear, 3, min_n=1, split="all")
    assert sum(result.n_roles.values()) == 0
    assert {row["reason"] for row in table(result).values()} == {"q: the feature never fires here"}


def test_a_region_that_is_not_known_is_refused(gear: Store) -> None:
    with pytest.raises(BadInput) as error:
        token_influence(gear, 0, region="core")
    assert str(error.value) == (
        "feature 0 has no regions: it fires under 20 times in the explain split, so its effective maximum is "
        "unknown; ask with region all"
    )


def test_a_store_without_families_is_asked_by_token() -> None:
    world = World("set", 1, (WorldSample(("a",), "u"),), {(0, 0, 0): 1.0}, name="bare")
    with pytest.raises(NotInStore) as error:
        token_influence(memory_store(world), 0, by="family")
    assert str(error.value) == "store 'bare' has no families; ask by token"


# against loops


def crowd(seed: int, n: int = 260) -> World:
    """Builds in units of one to four rows; `a` and `b` raise the rate of feature 0, `c` lowers its strength."""
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c", "d", "e_3", "e_6"]
    has = rng.random((n, len(names))) < [0.3, 0.2, 0.4, 0.1, 0.5, 0.25]
    fires = rng.random(n) < 0.2 + 0.4 * has[:, 0] + 0.3 * has[:, 1]
    value = np.round(rng.lognormal(0.0, 0.5, n) * np.where(has[:, 2], 0.5, 1.0), 3)
    samples = tuple(
        WorldSample(
            tuple(t for t, here in zip(names, row, strict=True) if here),
            f"u{i // (1 + i % 4)}",
            {"g": "xy"[i % 2]},
        )
        for i, row in enumerate(has)
    )
    family = FamilyInfo(name="e", encoding="cumulative", levels=(3, 6), tokens={"e_3": 3, "e_6": 6})
    activations = {(0, i, 0): float(value[i]) for i in np.flatnonzero(fires).tolist()}
    return World("set", 1, samples, activations, (family,), primary="g")


def presence(store: Store, scope: str = "at", window: int = 16) -> dict[str, Any]:
    """For each token, whether it is in scope at each row, by looping over rows."""
    n = store.n_rows("all")
    excluded = set(store.manifest.excluded_positions)
    found: dict[str, Any] = {}
    for row in range(n):
        sample, at = int(store.row_sample[row]), int(store.row_position[row])
        tokens = [store.tokens[t] for t in store.tokens_of_sample(sample)]
        if not store.is_sequence:
            mine = tokens
        elif scope == "at":
            mine = [tokens[at]]
        else:
            first, last = (max(0, at - window), at) if scope == "before" else (0, len(tokens))
            mine = [tokens[p] for p in range(first, last) if p not in excluded]
        for token in mine:
            found.setdefault(token, np.zeros(n, bool))[row] = True
    return found


def expected(
    store: Store, has: dict[str, Any], value: Any, keep: Any, min_n: int
) -> dict[str, dict[str, Any]]:
    """Effects, intervals and q of each token, from sums by looping over units."""
    unit = np.asarray(store.row_unit[: len(value)])
    fires = (value > 0).astype(float)
    rows, tests = {}, []
    for token in has:
        a, b, cross = arms(value, unit, has[token], ~has[token], keep)
        ra, rb, rcross = arms(fires, unit, has[token], ~has[token], keep)
        sa, sb, scross = arms(value, unit, has[token], ~has[token], keep & (value > 0))
        ones = arms(fires, unit, has[token], ~has[token], keep & (value > 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            effect = difference(a, b, cross, np.array([value.max()]))
            p = [p_values(Moments(a, b, cross), Moments(ra, rb, rcross))[0]]
            p.append(p_values(Moments(ra, rb, rcross), Moments(ra, rb, rcross))[0])
            if min(sa.n_firing_units[0], sb.n_firing_units[0]) >= 10:
                p.append(p_values(Moments(sa, sb, scross), Moments(*ones))[0])
        enough = all(arm.n[0] >= min_n and arm.n_units[0] >= min(min_n, 10) for arm in (a, b))
        tests.append(min(1.0, min(p) * len(p)) if enough else np.nan)
        rows[token] = {
            "n": a.n[0],
            "n_firing": ra.s[0],
            "effect": effect[0][0] if enough else None,
            "effect_low": effect[1][0] if enough else None,
            "effect_high": effect[2][0] if enough else None,
        }
    for token, q in zip(has, benjamini_hochberg(np.array(tests)), strict=True):
        rows[token]["q"] = q if np.isfinite(q) else None
    return rows


def assert_same(result: Any, true: dict[str, dict[str, Any]]) -> None:
    found = table(result)
    assert set(found) == {token for token, row in true.items() if row["n"]}
    for token, row in found.items():
        for name, value in true[token].items():
            both = (row[name], None if value is not None and np.isnan(value) else value)
            assert both[0] == (None if both[1] is None else pytest.approx(both[1], rel=1e-5, abs=1e-9)), (
                f"{name} of {token}"
            )


@pytest.mark.parametrize("seed", [0, 1])
def test_every_number_is_that_of_a_loop_over_units(seed: int) -> None:
    store = memory_store(crowd(seed))
    value, has = dense(store, 0), presence(store)
    keep = np.ones(len(value), bool)
    assert_same(token_influence(store, 0, split="all"), expected(store, has, value, keep, 20))
    in_x = np.array([store.group("g").values[k] == "x" for k in store.group_of_samples("g")])[
        store.row_sample
    ]
    sliced = token_influence(store, 0, where="g=x", split="all")
    assert_same(sliced, expected(store, has, value, in_x, 20))
    assert token_influence(store, 0, given="g=x", split="all").rows == sliced.rows


@pytest.mark.parametrize(("scope", "window"), [("at", 16), ("before", 3), ("sample", 16)])
def test_tokens_in_every_scope_are_those_of_a_loop_over_positions(scope: Any, window: int) -> None:
    store = memory_store(texts())
    value, has = dense(store, 1), presence(store, scope, window)
    result = token_influence(store, 1, scope=scope, window=window, split="all", limit=MANY)
    true = expected(store, has, value, np.ones(len(value), bool), 20)
    named = {"é<0xE2>": "é<0xE2>"}
    assert_same(result, {named.get(token, token): row for token, row in true.items()})


def test_core_and_tail_are_shares_of_their_rows() -> None:
    store = memory_store(crowd(2, 900))
    value, has = dense(store, 0, "explain"), presence(store)
    top = float(np.quantile(value[value > 0], 0.995))
    core, tail = (value > 0.25 * top) & (value <= 0.75 * top), value > 0.9 * top
    result = token_influence(store, 0, min_n=1)
    assert (result.n_core, result.n_tail) == (core.sum(), tail.sum())
    for token, row in table(result).items():
        mine = has[token][: len(value)]
        assert row["coverage_core"] == pytest.approx(mine[core].mean(), rel=1e-5)
        assert row["coverage_tail"] == pytest.approx(mine[tail].mean(), rel=1e-5)
        assert row["coverage_base"] == pytest.approx(mine.mean(), rel=1e-5)


def test_with_a_region_rates_and_effects_are_of_being_there() -> None:
    store = memory_store(crowd(3, 900))
    value = dense(store, 0, "explain")
    unit = np.asarray(store.row_unit[: len(value)])
    top = float(np.quantile(value[value > 0], 0.995))
    core = ((value > 0.25 * top) & (value <= 0.75 * top)).astype(float)
    result = token_influence(store, 0, region="core")
    assert "effect and rates are of being in the core region, not of activation" in result.warnings
    for token, row in table(result).items():
        mine = presence(store)[token][: len(value)]
        a, b, cross = arms(core, unit, mine, ~mine, np.ones(len(value), bool))
        effect, low, high, _ = rate_difference(a, b, cross)
        true = (core[mine].mean(), core[~mine].mean(), effect[0], low[0], high[0])
        names = ("firing_rate", "rate_without", "effect", "effect_low", "effect_high")
        assert tuple(row[name] for name in names) == pytest.approx(true, rel=1e-5)


# planted

N = 8000
PLANTED = ("more", "seldom", "weaker", "burst")
GATED, TRADED = 4, 5
FIRST_NULL, N_NULL = 6, 200


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A feature for each way in which a token can matter, and features that depend on nothing."""
    rng = np.random.default_rng(3)
    names = [*PLANTED, "high", "gate", *(f"idle{i}" for i in range(8))]
    share = [0.3, 0.3, 0.4, 0.06, 0.3, 0.3, *([0.3] * 8)]
    has = rng.random((N, len(names))) < share
    k = FIRST_NULL + N_NULL
    rate, strength = np.full((N, k), 0.12), rng.lognormal(0.0, 0.4, (N, k))
    rate[:, 0] = np.where(has[:, 0], 0.3, 0.1)
    rate[:, 1] = np.where(has[:, 1], 0.02, 0.10)
    strength[:, 2] *= np.where(has[:, 2], 0.5, 1.0)
    # in the tail by its strength alone
    strength[:, 3] = rng.lognormal(0.0, 0.1, N) * np.where(has[:, 3], 4.0, 1.0)
    rate[:, 3] = 0.5
    rate[:, GATED] = np.where(has[:, 4], np.where(has[:, 5], 0.6, 0.1), 0.1)
    # half as often and twice as strong: the mean stays
    rate[:, TRADED] = np.where(has[:, 0], 0.1, 0.2)
    strength[:, TRADED] *= np.where(has[:, 0], 2.0, 1.0)
    fires = rng.random((N, k)) < rate
    samples = tuple(
        WorldSample(tuple(t for t, here in zip(names, row, strict=True) if here), f"u{i}")
        for i, row in enumerate(has)
    )
    activations = {
        (int(f), int(i), 0): float(strength[i, f]) for i, f in zip(*np.nonzero(fires), strict=True)
    }
    families = tuple(
        FamilyInfo(name=f"f_{t}", encoding="exclusive", levels=(1,), tokens={t: 1}) for t in ("high", "gate")
    )
    return open_store(
        import_world(World("set", k, samples, activations, families), tmp_path_factory.mktemp("p"))
    )


@pytest.mark.parametrize(
    ("feature", "token", "role", "acts_on"),
    [
        (0, "more", "enhancer", "rate+"),
        (1, "seldom", "suppressor", "rate-"),
        (2, "weaker", "suppressor", "strength-"),
        (3, "burst", "tail_marker", "strength+"),
    ],
)
def test_a_planted_token_has_its_role(
    planted: Store, feature: int, token: str, role: str, acts_on: str
) -> None:
    result = token_influence(planted, feature)
    row = table(result)[token]
    assert (row["role"], row["acts_on"]) == (role, acts_on)
    assert row["q"] < 1e-3
    same = [name for name, other in table(result).items() if other["role"] == role]
    assert same[0] == token
    # thirteen others, of which chance may lift one or two
    assert result.n_roles["neutral"] >= 11


def test_a_token_that_trades_rate_for_strength_goes_by_its_rate(planted: Store) -> None:
    row = table(token_influence(planted, TRADED))["more"]
    assert row["effect_low"] < 0 < row["effect_high"]
    assert (row["role"], row["acts_on"]) == ("suppressor", "rate- strength+")


def test_the_rate_of_a_suppressor_is_in_its_interval(planted: Store) -> None:
    row = table(token_influence(planted, 1))["seldom"]
    # the truth: (0.02 - 0.10) exp(0.08), and a fifth of the rate
    assert row["effect_low"] <= -0.08 * np.exp(0.08) <= row["effect_high"] < 0
    assert row["rate_ratio"] == pytest.approx(0.2, abs=0.08)


def test_a_tail_marker_is_rare_in_the_core_and_frequent_in_the_tail(planted: Store) -> None:
    row = table(token_influence(planted, 3))["burst"]
    assert row["coverage_core"] < 0.3 < row["coverage_tail"]
    assert row["tail_q"] < 1e-6


def test_what_matters_only_beside_a_level_shows_given_that_level(planted: Store) -> None:
    alone = table(token_influence(planted, GATED))["gate"]
    given = table(token_influence(planted, GATED, given="family:f_high>=1"))["gate"]
    without = table(token_influence(planted, GATED, given="not family:f_high>=1"))["gate"]
    # 0.6 - 0.1 where the family is there, nothing elsewhere, 30 % of that over all
    assert given["firing_rate"] - given["rate_without"] == pytest.approx(0.5, abs=0.06)
    assert alone["firing_rate"] - alone["rate_without"] == pytest.approx(0.15, abs=0.04)
    assert without["role"] == "neutral"


def test_little_is_found_where_nothing_was_planted(planted: Store) -> None:
    found = [token_influence(planted, f, limit=MANY) for f in range(FIRST_NULL, FIRST_NULL + N_NULL)]
    # 200 features of 14 tokens: any q under 0.05 in 5 % at most, and 18 or fewer with probability 0.99
    assert sum(any(row["q"] < 0.05 for row in table(one).values()) for one in found) <= 18
    assert (
        sum(
            any(row["tail_q"] is not None and row["tail_q"] < 0.05 for row in table(one).values())
            for one in found
        )
        <= 18
    )


def test_suppressors_share_the_rows_with_enhancers() -> None:
    rng = np.random.default_rng(9)
    names = [f"up{i}" for i in range(8)] + [f"down{i}" for i in range(8)]
    has = rng.random((3000, 16)) < 0.3
    rate = np.clip(0.35 + 0.1 * has[:, :8].sum(1) - 0.1 * has[:, 8:].sum(1), 0.01, 0.99)
    fires = rng.random(3000) < rate
    samples = tuple(
        WorldSample(tuple(t for t, here in zip(names, row, strict=True) if here), f"u{i}")
        for i, row in enumerate(has)
    )
    world = World("set", 1, samples, {(0, int(i), 0): 1.0 for i in np.flatnonzero(fires)})
    store = memory_store(world)
    result = token_influence(store, 0, limit=6)
    assert [row["role"] for row in table(result).values()] == ["enhancer"] * 3 + ["suppressor"] * 3
    assert result.more == 10
    pages, cursor = [result], result.next_cursor
    while cursor:
        pages.append(token_influence(store, 0, limit=6, cursor=cursor))
        cursor = pages[-1].next_cursor
    seen = [str(row[0]) for one in pages for row in one.rows]
    assert sorted(seen) == sorted(names)


def test_strengths_that_are_all_alike_are_no_evidence() -> None:
    rng = np.random.default_rng(4)
    has = rng.random((600, 3)) < 0.4
    samples = tuple(
        WorldSample(tuple(t for t, here in zip("abc", row, strict=True) if here), f"u{i}")
        for i, row in enumerate(has)
    )
    world = World("set", 1, samples, {(0, i, 0): 0.1 for i in range(600)})
    found = table(token_influence(memory_store(world), 0)).values()
    assert {(row["role"], row["q"]) for row in found} == {("neutral", 1.0)}
    pairs = token_interactions(memory_store(world), 0, tokens=list("abc"))
    assert [row[pairs.columns.index("q")] for row in pairs.rows] == [1.0] * 3


@pytest.mark.parametrize("where", ["token:none", "group=x", "family:swim>=", "swim>3"])
def test_rubbish_is_refused_with_a_message(where: str) -> None:
    with pytest.raises(SaeInterpError):
        token_influence(memory_store(builds()), 0, where=where)


def test_a_slice_without_rows_is_missing_data(tmp_path: Path) -> None:
    result = token_influence(memory_store(builds()), 0, where="token:swim_6 and token:ninja")
    assert result.rows == []
    assert result.warnings[0] == "no stored row satisfies the condition: this is missing data, not a zero"
