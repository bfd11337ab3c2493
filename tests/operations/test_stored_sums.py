"""An answer from stored sums is the answer computed from the activations."""

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.slicing import Scoping, make_slice
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import SPLITS, Split
from saeinterp_mcp.store.memory_store import World, memory_store
from tests.operations.test_any_world import answer
from tests.pipeline.test_sum_labels import crowd
from tests.worlds import builds, has_rows, texts, worlds


def both(world: World) -> tuple[Store, Store]:
    """The world with sums of every feature, and of none."""
    return memory_store(world, summed_from=1), memory_store(world, summed_from=10**9)


def answers(store: Store, feature: int, split: Split, min_n: int) -> list[Any]:
    """What can be asked of sums; without evidence where it is of another store."""
    rows: dict[str, Any] = {"split": split}
    found = [answer(feature_overview, store, feature, detail=d, **rows) for d in ("concise", "detailed")]
    found += [answer(group_sweep, store, feature, g, min_n=min_n, limit=200, **rows) for g in store.groups]
    found += [answer(family_sweep, store, feature, f, min_n=min_n, **rows) for f in store.families]
    assert None not in found
    return found


def assert_same(world: World, min_n: int) -> None:
    stored, computed = both(world)
    for feature in range(world.n_features):
        for split in SPLITS:
            part = make_slice(stored, feature, split, None)
            fires = bool(len(stored.activations(feature).rows))
            assert (part.stored_sums is not None) == fires
            # rounded to 6 digits as they are, evidence included
            assert answers(stored, feature, split, min_n) == answers(computed, feature, split, min_n)


@pytest.mark.parametrize("world", [builds, texts, crowd])
def test_stored_sums_give_the_computed_answers(world: Any) -> None:
    assert_same(world(), 1)
    assert_same(world(), 20)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(world=worlds(), min_n=st.sampled_from([1, 20]))
def test_stored_sums_of_any_world_give_the_computed_answers(world: World, min_n: int) -> None:
    assume(has_rows(world))
    assert_same(world, min_n)


def test_a_slice_and_another_scope_are_computed() -> None:
    store = memory_store(texts(), summed_from=1)
    assert make_slice(store, 0, "all", None).stored_sums is not None
    assert make_slice(store, 0, "all", "module=m1").stored_sums is None
    assert make_slice(store, 0, "all", None, Scoping("before")).stored_sums is None
