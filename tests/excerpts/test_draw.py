"""Excerpts against the world they come from: which samples, which tokens, which activations."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from saeinterp_mcp.analysis.splits import content_unit, in_explain, unit_hash
from saeinterp_mcp.errors import NotInStore, UnknownName
from saeinterp_mcp.excerpts.draw import Excerpts
from saeinterp_mcp.excerpts.records import SILENT_KINDS, Excerpt
from saeinterp_mcp.excerpts.spans import ExcerptSplit
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import MemoryBackend, World, WorldSample, memory_store
from saeinterp_mcp.store.open import open_store
from tests.worlds import builds, has_rows, import_world, texts, worlds

SPLITS: tuple[ExcerptSplit, ExcerptSplit] = ("explain", "heldout")
ANY_WORLD = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def draws(
    excerpts: Excerpts, split: ExcerptSplit, seed: int, n: int = 4
) -> Iterator[tuple[int, str, list[Excerpt]]]:
    """(feature, kind, excerpts) of every kind."""
    for feature in range(excerpts.store.manifest.n_features):
        for pick in ("spread", "top"):
            try:
                yield feature, pick, excerpts.firing(feature, split, n, seed, pick)
            except NotInStore:
                yield feature, pick, []
        for kind in SILENT_KINDS:
            yield feature, kind, excerpts.silent(feature, split, kind, n, seed)


def check_against(world: World, store: Store, feature: int, split: ExcerptSplit, excerpt: Excerpt) -> None:
    """Everything an excerpt says, from the world's own values."""
    source = int(store.source[excerpt.sample])
    sample = world.samples[source]
    unit = sample.unit if sample.unit is not None else content_unit(sample.tokens, world.kind)
    assert in_explain(unit_hash(unit, world.split_seed)) == (split == "explain")
    value = {p: v for (f, s, p), v in world.activations.items() if f == feature and s == source}
    if world.kind == "set":
        assert excerpt.tokens == tuple(sorted(set(sample.tokens)))
        assert excerpt.activations == (value.get(0, 0.0),)
        return
    positions = range(excerpt.start, excerpt.start + len(excerpt.tokens))
    assert excerpt.tokens == tuple(sample.tokens[p] for p in positions)
    assert excerpt.activations == tuple(value.get(p, 0.0) for p in positions)
    assert not set(positions) & set(world.excluded_positions)
    assert 0 <= excerpt.at < len(excerpt.tokens)
    assert int(store.row_position[excerpt.row]) == excerpt.start + excerpt.at


@ANY_WORLD
@given(world=worlds(), seed=st.integers(0, 3), window=st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_excerpts_say_what_the_world_holds(world: World, seed: int, window: tuple[int, int]) -> None:
    assume(has_rows(world))
    store = memory_store(world)
    for split in SPLITS:
        for feature, kind, drawn in draws(Excerpts(store, *window), split, seed):
            for excerpt in drawn:
                check_against(world, store, feature, split, excerpt)
                assert len(excerpt.tokens) <= (1 + sum(window) if store.is_sequence else 10**6)
                if kind in SILENT_KINDS:
                    assert set(excerpt.activations) == {0.0}
                else:
                    assert excerpt.activations[excerpt.at] > 0
            assert len({e.unit for e in drawn}) == len(drawn) <= 4
            assert len({(e.at, e.tokens, e.groups) for e in drawn}) == len(drawn)


@ANY_WORLD
@given(world=worlds(), seeds=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_explaining_and_scoring_samples_never_overlap(world: World, seeds: tuple[int, int]) -> None:
    assume(has_rows(world))
    store = memory_store(world)
    seen = [
        {(e.sample, e.unit) for _, _, drawn in draws(Excerpts(store), split, seed, 50) for e in drawn}
        for split, seed in zip(SPLITS, seeds, strict=True)
    ]
    for place in (0, 1):
        assert not {pair[place] for pair in seen[0]} & {pair[place] for pair in seen[1]}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(world=worlds(), seed=st.integers(0, 3))
def test_one_seed_one_draw_in_any_order_of_calls(world: World, seed: int) -> None:
    assume(has_rows(world))
    calls = list(product(range(world.n_features), SPLITS, SILENT_KINDS))
    asked: dict[object, list[Excerpt]] = {}
    for order in (calls, calls[::-1]):
        excerpts = Excerpts(memory_store(world))
        for feature, split, kind in order:
            found = excerpts.silent(feature, split, kind, 3, seed)
            assert asked.setdefault((feature, split, kind), found) == found
            excerpts.silent(feature, split, kind, 2, seed + 1)


def test_a_store_on_disk_draws_what_the_one_in_memory_does(tmp_path_factory: pytest.TempPathFactory) -> None:
    for world in (texts(), builds()):
        memory = Excerpts(memory_store(world))
        folder = tmp_path_factory.mktemp(world.name)
        disk = Excerpts(open_store(import_world(world, folder)))
        for split in SPLITS:
            assert list(draws(memory, split, 1)) == list(draws(disk, split, 1))


def line(n_samples: int, length: int, fires: dict[tuple[int, int], float], **more: object) -> World:
    """Samples of different tokens `s3t0 s3t1 ...`, each a unit of its own, feature 0 as given."""
    return World(
        kind="sequence",
        n_features=1,
        samples=tuple(
            WorldSample(tuple(f"s{s}t{p}" for p in range(length)), f"u{s}") for s in range(n_samples)
        ),
        activations={(0, s, p): v for (s, p), v in fires.items()},
        **more,  # type: ignore[arg-type]
    )


def test_the_strongest_are_taken_one_a_unit_edges_too() -> None:
    # every sample fires weakly at its first position, strongly at its last
    world = line(40, 30, {(s, p): s + 1 + (100 if p else 0) for s in range(40) for p in (0, 29)})
    store = memory_store(world)
    found = Excerpts(store).firing(0, "explain", 5, 0, "top")
    explain = sorted((s for s in range(40) if in_explain(unit_hash(f"u{s}", 0))), reverse=True)
    assert [int(store.source[e.sample]) for e in found] == explain[:5]
    assert [e.activations[e.at] for e in found] == [s + 101.0 for s in explain[:5]]
    assert all(e.start + e.at == 29 and e.at == 24 and len(e.tokens) == 25 for e in found)
    first = Excerpts(memory_store(line(40, 30, {(s, 0): 1.0 for s in range(40)}))).firing(0, "explain", 5, 0)
    assert all(e.start == e.at == 0 and len(e.tokens) == 8 for e in first)


def test_spread_takes_one_of_each_slice_of_the_sorted_activations() -> None:
    store = memory_store(line(200, 3, {(s, 1): s + 1.0 for s in range(200)}))
    values = np.sort(store.activations(0, "explain").values)[::-1]
    slices = np.array_split(values, 10)
    for seed in range(5):
        found = Excerpts(store).firing(0, "explain", 10, seed)
        assert len(found) == 10
        for excerpt, part in zip(found, slices, strict=True):
            assert excerpt.strongest in part
    drawn = {tuple(e.row for e in Excerpts(store).firing(0, "explain", 10, seed)) for seed in range(5)}
    assert len(drawn) == 5


def test_texts_that_are_alike_are_shown_once_and_units_to_avoid_are_not() -> None:
    samples = tuple(WorldSample(("a", "b", "c"), f"u{s}") for s in range(30))
    world = World("sequence", 1, samples, {(0, s, 1): 1.0 + s for s in range(30)})
    excerpts = Excerpts(memory_store(world))
    assert [e.tokens for e in excerpts.firing(0, "explain", 5, 0)] == [("a", "b", "c")]
    store = memory_store(line(30, 4, {(s, 1): 1.0 + s for s in range(30)}))
    first = frozenset(e.unit for e in Excerpts(store).firing(0, "explain", 8, 0))
    second = {e.unit for e in Excerpts(store).firing(0, "explain", 8, 0, avoid=first)}
    assert len(first) == 8
    assert len(second) == 8
    assert not first & second


def test_silent_excerpts_are_uniform_over_rows_whose_whole_excerpt_is_silent() -> None:
    # 12 positions, windows of one token either side, the middle fires: rows 5, 6 and 7 cannot be silent
    store = memory_store(line(60, 12, {(s, 6): 1.0 for s in range(60)}))
    excerpts = Excerpts(store, 1, 1)
    at = [
        int(store.row_position[e.row])
        for seed in range(60)
        for e in excerpts.silent(0, "explain", "random", 12, seed)
    ]
    counts = np.bincount(at, minlength=12)
    assert counts[5:8].tolist() == [0, 0, 0]
    expected = len(at) / 9
    assert len(at) == 720
    # chi square with 8 degrees of freedom: 26.1 is passed once in 1000
    assert ((counts[[0, 1, 2, 3, 4, 8, 9, 10, 11]] - expected) ** 2 / expected).sum() < 26.1


def test_a_feature_that_is_hardly_ever_silent_is_searched_to_the_end() -> None:
    fires = {(s, p): 1.0 for s in range(20) for p in range(80) if not (s == 7 and 40 <= p < 80)}
    store = memory_store(line(20, 80, fires))
    split: ExcerptSplit = "explain" if in_explain(unit_hash("u7", 0)) else "heldout"
    (found,) = Excerpts(store).silent(0, split, "random", 5, 0)
    assert int(store.source[found.sample]) == 7
    assert found.start >= 40
    assert found.start + len(found.tokens) <= 80


def test_more_rows_are_drawn_until_a_silent_excerpt_is_found() -> None:
    # every other position fires, but for a stretch that has room for two excerpts
    fires = {(s, p): 1.0 for s in range(20) for p in range(0, 80, 2) if not (s == 7 and 40 <= p < 72)}
    store = memory_store(line(20, 80, fires))
    split: ExcerptSplit = "explain" if in_explain(unit_hash("u7", 0)) else "heldout"
    for seed in range(10):
        (found,) = Excerpts(store).silent(0, split, "random", 1, seed)
        assert found.start + found.at in (63, 64)


def test_what_holds_nothing_that_goes_with_the_feature_is_no_near_miss() -> None:
    store = memory_store(line(30, 3, {(s, 1): 1.0 for s in range(0, 30, 2)}))
    assert Excerpts(store).silent(0, "explain", "near_miss", 5, 0) == []
    assert len(Excerpts(store).silent(0, "explain", "random", 5, 0)) == 5


def test_near_misses_hold_what_goes_with_the_feature_and_similar_ones_where_a_like_feature_fires() -> None:
    generator = np.random.default_rng(0)
    samples, fires = [], {}
    for s in range(300):
        tokens = generator.choice(["a", "b", "c", "d"], 9).tolist()
        if s % 3 < 2:
            tokens[4] = "key"
            fires[1, s, 4] = 2.0  # feature 1 fires on any key
        if s % 3 == 0:
            tokens[3] = "door"
            fires[0, s, 4] = 2.0  # feature 0 on a key behind a door
        samples.append(WorldSample(tuple(tokens), f"u{s}"))
    excerpts = Excerpts(memory_store(World("sequence", 2, tuple(samples), fires)))
    for split in SPLITS:
        near = excerpts.silent(0, split, "near_miss", 5, 0)
        assert len(near) == 5
        assert all("key" in e.tokens and "door" not in e.tokens for e in near)
        similar = excerpts.silent(0, split, "similar", 5, 0)
        assert len(similar) == 5
        assert all(e.tokens[e.at] == "key" and "door" not in e.tokens for e in similar)


def test_an_excerpt_ends_where_a_position_is_not_counted() -> None:
    world = line(20, 12, {(s, p): 1.0 for s in range(20) for p in (2, 7)}, excluded_positions=(0, 5))
    store = memory_store(world)
    found = Excerpts(store).firing(0, "explain", 50, 0) + Excerpts(store).firing(0, "heldout", 50, 0)
    spans = {(e.start + e.at, e.start, len(e.tokens)) for e in found}
    assert spans == {(2, 1, 4), (7, 6, 6)}


def test_sets_are_shown_whole_with_their_primary_group_and_its_attributes() -> None:
    store = memory_store(builds())
    found = Excerpts(store).firing(4, "explain", 12, 0)
    held = {(*e.groups, *e.tokens) for e in found}
    assert (("weapon", "brush"), ("weapon.class", "roller"), "ninja", "swim_3") in held
    assert (("weapon", "(none)"), ("weapon.class", "(none)"), "comeback") in held
    assert all(e.activations == (2.0,) and e.at == e.start == 0 for e in found)


def test_what_cannot_be_drawn_is_refused_with_the_reason() -> None:
    store = memory_store(builds())
    with pytest.raises(NotInStore) as refused:
        Excerpts(store).firing(3, "explain", 5, 0)
    assert str(refused.value) == (
        "feature 3 never fires in the explain split of store 'builds', so there is no excerpt to show; "
        "features_search --where 'firing_rate>0' finds features that fire"
    )
    with pytest.raises(UnknownName):
        Excerpts(store).silent(5, "explain", "random", 5, 0)
    assert isinstance(store.backend, MemoryBackend)
    manifest = store.manifest.model_copy(update={"coverage": "sampled"})
    sampled = Excerpts(Store(MemoryBackend(manifest, store.backend._arrays, store.backend._tables)))
    assert sampled.firing(4, "explain", 3, 0)
    with pytest.raises(NotInStore, match="is sampled"):
        sampled.firing(4, "heldout", 3, 0)
    with pytest.raises(NotInStore, match="is sampled"):
        sampled.silent(0, "explain", "random", 3, 0)
