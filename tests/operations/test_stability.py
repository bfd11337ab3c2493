"""Halves and shuffles go by unit; noise is not called an effect, and what was planted is."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.analysis.stability import (
    LabelledRows,
    Pattern,
    Shuffler,
    p_of,
    shuffle_null,
    size_classes,
)
from saeinterp_mcp.errors import NotInStore, UnknownName
from saeinterp_mcp.operations.stability import MAX_FIRING, stability
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import FamilyInfo
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from tests.operations.brute import dense


def planted(n_units: int = 220) -> World:
    """Two views of each build; 14 tokens. Feature 0 goes with swim and weapon w0, 1 is noise, 2 hardly fires."""
    generator = np.random.default_rng(4)
    swim = FamilyInfo(name="swim", encoding="cumulative", levels=(3, 6), tokens={"s3": 3, "s6": 6})
    samples, activations = [], {}
    for i in range(2 * n_units):
        level = int(generator.choice([0, 3, 6]))
        tokens = [t for t, v in swim.tokens.items() if v <= level]
        tokens += [f"t{k}" for k in range(12) if generator.random() < 0.4]
        weapon = f"w{generator.integers(4)}"
        samples.append(WorldSample(tuple(tokens), unit=f"u{i // 2}", groups={"weapon": weapon}))
        if generator.random() < 0.1 + 0.4 * (level == 6) + 0.2 * (weapon == "w0"):
            activations[0, i, 0] = round(float(generator.lognormal()), 3)
        if generator.random() < 0.25:
            activations[1, i, 0] = round(float(generator.lognormal()), 3)
        if i < 6:
            activations[2, i, 0] = 1.0
    return World("set", 3, tuple(samples), activations, families=(swim,), primary="weapon", name="planted")


def ask(store: Store, feature: int, *method: Any, **arguments: Any) -> Any:
    return stability(store, feature, *method, **arguments)


@pytest.fixture(scope="module")
def store() -> Store:
    return memory_store(planted())


def test_halves_agree_on_what_is_there_and_not_on_noise(store: Store) -> None:
    real, noise = ask(store, 0), ask(store, 1)
    assert real.statistic > 0.6 > 0.5 > real.null.q95
    assert noise.null.q05 < noise.statistic < noise.null.q95
    assert (real.p, real.n_compared, real.draws) == (pytest.approx(1 / 21, rel=1e-5), 14, 20)
    assert noise.p > 0.2


def test_the_correlation_of_halves_is_that_of_log_odds_counted_row_by_row(store: Store) -> None:
    found = ask(store, 0, draws=19, seed=3)
    generator = rng(3, "stability", "split_half", 0)
    n_rows, n_units = store.n_rows("explain"), store.n_units("explain")
    divisions = [set(generator.permutation(n_units)[: n_units // 2].tolist()) for _ in range(19)]
    fires = dense(store, 0, "explain") > 0
    held = np.array([np.isin(np.arange(len(store.tokens)), store.tokens_of_sample(s)) for s in range(n_rows)])
    drawn = []
    for division in divisions:
        first = np.array([u in division for u in store.row_unit[:n_rows].tolist()])
        halves = []
        for half in (first, ~first):
            odds = []
            for k in range(held.shape[1]):
                with_it, without = half & held[:, k], half & ~held[:, k]
                a, n_a, b, n_b = (float(x.sum()) for x in (fires[with_it], with_it, fires[without], without))
                pooled = (a + b + 0.5) / (n_a + n_b + 1)
                more = 0.5 / min(pooled, 1 - pooled)
                rates = [(f + more * pooled) / (n + more) for f, n in ((a, n_a), (b, n_b))]
                odds.append(np.log(rates[0] / (1 - rates[0])) - np.log(rates[1] / (1 - rates[1])))
            halves.append(odds)
        drawn.append(np.corrcoef(halves[0], halves[1])[0, 1])
    assert found.statistic == pytest.approx(np.mean(drawn), rel=1e-5)
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), rel=1e-5)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), rel=1e-5)


def test_a_planted_feature_has_the_smallest_p_and_says_what_stands_out(store: Store) -> None:
    found = ask(store, 0, "shuffle_null", draws=99)
    assert found.p == pytest.approx(1 / 100)
    assert (found.strongest.of, found.strongest.label) in {("tokens", "s6"), ("family:swim", "6")}
    assert found.strongest.by == "rate"
    assert found.null.max < found.statistic == found.strongest.z
    assert ask(store, 1, "shuffle_null", draws=99).p > 0.05


def noise_world(generator: np.random.Generator, effect: float = 0.0) -> tuple[Any, Any, Any]:
    """60 units of 4 to 12 rows that differ in how much they fire and in their labels; a family at the rows."""
    size = generator.integers(4, 13, 60)
    unit = np.repeat(np.arange(60), size)
    group = generator.integers(0, 5, 60)[unit]
    level = generator.integers(0, 4, len(unit))
    chance = 1 / (1 + np.exp(2 - generator.normal(0, 1.5, 60)[unit] - effect * (level == 3)))
    rows = np.flatnonzero(generator.random(len(unit)) < chance)
    first = np.cumsum(size) - size
    pattern = Pattern(size, unit[rows], rows - first[unit[rows]], generator.lognormal(size=len(rows)))
    return pattern, rows, [(5, looked_up(group)), (4, looked_up(level))]


def looked_up(label: Any) -> Any:
    return lambda rows: LabelledRows(np.arange(len(rows)), label[rows])


def test_p_of_noise_in_units_that_differ_is_uniform() -> None:
    generator = np.random.default_rng(6)
    drawn = [shuffle_null(*noise_world(generator), 39, generator)[0].p for _ in range(200)]
    assert np.mean(np.array(drawn) <= 0.05) <= 0.08
    assert 0.4 < np.mean(np.array(drawn) <= 0.5) < 0.6
    effects = [shuffle_null(*noise_world(generator, 2.0), 39, generator)[0].p for _ in range(20)]
    assert np.median(effects) == 1 / 40


def test_shuffling_rows_instead_of_units_would_call_noise_an_effect() -> None:
    generator = np.random.default_rng(6)
    drawn = []
    for _ in range(40):
        pattern, rows, labels = noise_world(generator)
        alone = Pattern(
            np.ones(pattern.size.sum(), np.int64), rows, np.zeros(len(rows), np.int64), pattern.value
        )
        drawn.append(shuffle_null(alone, rows, labels, 39, generator)[0].p)
    assert np.mean(np.array(drawn) <= 0.05) > 0.3


def test_labels_of_a_few_rows_do_not_drown_an_effect() -> None:
    """One label of 400 rows with twice the firing rate, beside 600 labels of two rows each."""
    generator = np.random.default_rng(9)
    drawn = []
    for _ in range(5):
        planted = np.arange(1200) < 400
        rows = np.flatnonzero(generator.random(1200) < np.where(planted, 0.13, 0.06))
        pattern = Pattern(np.ones(1200, np.int64), rows, np.zeros(len(rows), np.int64), np.ones(len(rows)))
        labels = [
            (2, looked_up(planted.astype(np.int64))),
            (600, looked_up(generator.permutation(1200) // 2)),
        ]
        drawn.append(shuffle_null(pattern, rows, labels, 39, generator)[0].p)
    assert np.median(drawn) <= 0.05


def test_a_shuffle_moves_whole_patterns_to_other_units_of_their_size() -> None:
    size = np.array([3] * 15 + [7] * 15 + [0])
    fires = {0: [0, 2], 4: [1], 16: [0, 3, 6], 29: [5]}
    unit = np.repeat(list(fires), [len(p) for p in fires.values()])
    place = np.concatenate([np.array(p) for p in fires.values()])
    shuffler = Shuffler(Pattern(size, unit, place, np.ones(len(unit))))
    first = np.cumsum(size) - size
    seen = set()
    for i in range(40):
        target, rows = shuffler.draw(np.random.default_rng(i))
        seen.add(int(target[0]))
        moved: dict[int, list[int]] = {}
        for u, row in zip(target.tolist(), rows.tolist(), strict=True):
            moved.setdefault(u, []).append(row - int(first[u]))
        assert sorted(moved.values()) == sorted(fires.values())
        assert all((u < 15) == (p in ([0, 2], [1])) for u, p in moved.items())
    assert len(seen) > 8
    assert shuffler.share_movable == 1


def test_a_pattern_keeps_its_place_in_a_unit_of_another_size() -> None:
    size = np.array([10, 11] * 6)
    pattern = Pattern(size, np.zeros(3, np.int64), np.array([0, 5, 9]), np.ones(3))
    first = np.cumsum(size) - size
    for i in range(30):
        target, rows = Shuffler(pattern).draw(np.random.default_rng(i))
        expected = [0, 5, 9] if size[target[0]] == 10 else [0, 6, 10]
        assert (rows - first[target]).tolist() == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ([1] * 10 + [2] * 10 + [0], [0] * 10 + [1] * 10 + [-1]),
        ([1] * 9 + [2] * 10, [0] * 19),  # too few of size 1, and 2 is an octave from it
        ([2] * 12 + [3] * 9, [0] * 21),  # the last ones join those before
        ([1] * 12 + [64], [0] * 12 + [1]),  # nothing is like a unit of 64 rows
        ([1] * 3 + [64] * 3, [0] * 3 + [1] * 3),
        ([16, 17, 18, 19] * 3 + [20] * 10, [0] * 12 + [1] * 10),
        ([0, 0], [-1, -1]),
    ],
)
def test_units_of_like_size_are_one_class(size: list[int], expected: list[int]) -> None:
    assert size_classes(np.array(size)).tolist() == expected


def test_p_counts_the_observed_data_among_the_shuffles() -> None:
    assert p_of(3.0, np.array([1.0, 2.0, 4.0])) == 0.5
    assert p_of(5.0, np.array([1.0, 2.0, 4.0])) == 0.25
    assert p_of(1.0, np.array([1.0, 2.0, 4.0])) == 1.0


@pytest.mark.parametrize("method", ["split_half", "shuffle_null"])
def test_too_little_data_is_null_with_the_reason(store: Store, method: Any) -> None:
    found = ask(store, 2, method, split="all")
    null = [found.statistic, found.low, found.high, found.null, found.p, found.strongest]
    assert null == [None] * 6
    assert found.reason == "6 firing rows of 3 units; 20 of 10 needed"
    assert found.summary == f"Too little data for {method} ({found.reason})."


def test_few_tokens_with_rows_in_both_halves_are_no_correlation(store: Store) -> None:
    found = ask(store, 0, where="family:swim>=6 and token:t0")
    assert found.statistic is None
    few = ask(memory_store(_few_tokens()), 0)
    assert few.reason == "3 tokens have 20 rows in both halves; 10 needed"
    assert (few.n_compared, few.statistic) == (3, None)


def _few_tokens() -> World:
    world = planted()
    cut = tuple(
        replace(s, tokens=tuple(t for t in s.tokens if t in ("s3", "s6", "t1"))) for s in world.samples
    )
    return replace(world, samples=cut)


def test_firing_in_units_unlike_all_others_cannot_be_shuffled() -> None:
    world = planted()
    joined = tuple(replace(s, unit=f"u{0 if i < 300 else i}") for i, s in enumerate(world.samples))
    found = ask(memory_store(replace(world, samples=joined)), 1, "shuffle_null", split="all")
    assert found.p is None
    share = 100 * sum(f == 1 and s >= 300 for f, s, _ in world.activations) / found.n_firing
    assert found.reason == f"only {share:.3g} % of the firing rows lie in units that have others of like size"


def test_where_and_split_limit_the_rows(store: Store) -> None:
    part = ask(store, 0, "shuffle_null", where="weapon=w1")
    whole = ask(store, 0, "shuffle_null", split="all")
    fires = dense(store, 0, "explain") > 0
    codes = store.group_of_samples("weapon")[store.row_sample[: len(fires)]]
    here = codes == store.group("weapon").values.index("w1")
    assert (part.n, part.n_firing) == (here.sum(), fires[here].sum())
    assert (whole.n, whole.n_firing) == (store.n_rows("all"), (dense(store, 0) > 0).sum())
    assert part.n_units == len(np.unique(store.row_unit[: len(fires)][here]))


@pytest.mark.parametrize("method", ["split_half", "shuffle_null"])
def test_one_seed_gives_one_answer(store: Store, method: Any) -> None:
    first = ask(store, 0, method, seed=1)
    assert ask(store, 0, method, seed=1).model_dump_json() == first.model_dump_json()
    assert ask(store, 0, method, seed=2).null != first.null


def test_a_feature_that_fires_very_often_is_shuffled_in_some_units(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ask(store, 0, "shuffle_null")
    monkeypatch.setitem(MAX_FIRING, "at", whole.n_firing // 2)
    part = ask(store, 0, "shuffle_null")
    assert 0.4 < part.n_units / whole.n_units < 0.55
    assert part.warnings == [
        f"drawn from {part.n_units} of {whole.n_units} units, at random by the seed: it fires on "
        f"{whole.n_firing} rows"
    ]
    assert ask(store, 0, "split_half").n_units == whole.n_units


def test_scope_sees_the_tokens_before(code: Store) -> None:
    """Feature 1 of `texts` fires on the position after `def`."""
    before = ask(code, 1, "shuffle_null", scope="before", window=1, split="all")
    assert before.strongest.label in ("def", "1")  # level 1 of the family `keyword`, which is `def`
    assert before.p == pytest.approx(1 / 201, rel=1e-5)
    assert ask(code, 2, "shuffle_null", split="all").p > 0.05


def test_sampled_stores_and_unknown_features_are_refused() -> None:
    store = memory_store(planted())
    with pytest.raises(UnknownName, match="has 0 to 2"):
        ask(store, 3)
    store.manifest = store.manifest.model_copy(update={"coverage": "sampled"})
    with pytest.raises(NotInStore, match="stability needs every activation"):
        ask(store, 0)
