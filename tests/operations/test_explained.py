"""What stands behind a dominant value is the same whether columns of counts are left out or rows of a slice."""

from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.operations.adjustment import Adjustment, Target
from saeinterp_mcp.operations.effects import effects_of
from saeinterp_mcp.operations.explained import GroupArms
from saeinterp_mcp.operations.slicing import Slice, make_slice
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import FamilyInfo
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from tests.operations.test_trend_confounding import Rows, stratified_of

SUBS = {"a": "mine", "b": "mine", "c": "bomb", "d": "bomb", "e": "bomb", "f": "wall"}
ESTIMATES = ("effect", "effect_low", "effect_high", "firing_rate", "mean")


@pytest.fixture(scope="module", params=["one weapon a unit", "several"])
def store(request: pytest.FixtureRequest) -> Store:
    """600 samples in 200 units, whose samples may differ in weapon; a family of two levels; one feature."""
    rng = np.random.default_rng(3)
    weapons = sorted(SUBS)
    samples, activations = [], {}
    for i in range(600):
        own = weapons[i % 200 % 6]
        weapon = own if request.param.startswith("one") or rng.random() < 0.6 else str(rng.choice(weapons))
        level = int(rng.integers(0, 3)) if weapon in "ab" else int(rng.random() < 0.3)
        tokens = ("f_1", "f_2")[:level]
        samples.append(WorldSample(tokens, f"u{i % 200}", {"weapon": weapon}))
        if rng.random() < 0.1 + 0.2 * level + 0.3 * (weapon == "a"):
            activations[0, i, 0] = round(float(rng.lognormal(0, 0.5)), 3)
    family = FamilyInfo(name="f", encoding="cumulative", levels=(1, 2), tokens={"f_1": 1, "f_2": 2})
    attributes = {"weapon": {weapon: {"sub": sub} for weapon, sub in SUBS.items()}}
    return memory_store(
        World("set", 1, tuple(samples), activations, (family,), primary="weapon", attributes=attributes)
    )


def slices(store: Store) -> list[Slice]:
    return [make_slice(store, 0, "all", None), make_slice(store, 0, "explain", "not family:f>=2")]


def only(part: Slice, values: list[str]) -> Slice:
    """The rows of a slice with some weapons."""
    codes = part.store.group_of_samples("weapon")[part.store.row_sample[: part.store.n_rows(part.split)]]
    keep = np.isin(codes, [part.store.group("weapon").values.index(v) for v in values])
    return Slice(part.store, 0, part.split, part.scoping, keep if part.mask is None else keep & part.mask)


def assert_same(found: Any, expected: Any, k: int) -> None:
    for name in ESTIMATES:
        np.testing.assert_allclose(
            getattr(found, name)[0], getattr(expected, name)[k], rtol=1e-9, err_msg=name
        )
    assert (found.n[0], found.n_units[0]) == (expected.n[k], expected.n_units[k])


def test_peers_without_the_dominant_value_are_those_of_the_slice_without_it(store: Store) -> None:
    values = list(store.group("weapon").values)
    for part in slices(store):
        arms = GroupArms(part, "weapon", 5)
        for dominant in ("a", "c"):
            it = np.array([v == dominant for v in values])
            same = np.array([SUBS.get(v) == SUBS[dominant] for v in values])
            rest = only(part, [v for v in values if v != dominant]).labels("group.weapon.sub")
            expected = effects_of(rest, 5)
            assert_same(arms.compare(same & ~it, ~same), expected, rest.names.index(SUBS[dominant]))
            within = only(part, [v for v in values if SUBS.get(v) == SUBS[dominant]])
            expected = effects_of(within.labels("group.weapon"), 5)
            assert_same(arms.compare(it, same & ~it), expected, values.index(dominant))


def test_a_value_held_within_a_family_is_the_stratified_difference_of_its_rows(store: Store) -> None:
    values = list(store.group("weapon").values)
    for part in slices(store):
        rows = np.arange(store.n_rows(part.split)) if part.mask is None else np.flatnonzero(part.mask)
        dense = np.zeros(store.n_rows(part.split))
        at, activation = store.activations(0, part.split)
        dense[at] = activation
        weapon = store.group_of_samples("weapon")[store.row_sample[rows]]
        unit = np.unique(store.row_unit[rows], return_inverse=True)[1]
        for k, _ in enumerate(values):
            cells = 2 * store.codes("f")[rows].astype(np.int64) + (weapon == k)
            expected = stratified_of(Rows(unit, cells, dense[rows]), 3, part.largest)
            found = Adjustment(part, Target("group.weapon", k), 1.0, True).within("family.f")
            np.testing.assert_allclose(found, expected, rtol=1e-9)
