"""Explainers see the explain split alone: whatever the held-out units hold, not a byte of a request changes."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.explainers import EXPLAINERS
from saeinterp_mcp.analysis.splits import in_explain, unit_hash
from saeinterp_mcp.errors import SaeInterpError
from saeinterp_mcp.store.memory_store import World, memory_store
from tests.pipeline.explainers.world import outfits, pets
from tests.worlds import worlds


def is_heldout(unit: str | None, seed: int) -> bool:
    assert unit is not None, "units are named in these worlds"
    return not in_explain(unit_hash(unit, seed))


def with_other_heldout(world: World) -> World:
    """The same explain units; held-out samples turned round, firing elsewhere and a hundred times as strongly."""
    heldout = [i for i, s in enumerate(world.samples) if is_heldout(s.unit, world.split_seed)]
    samples = list(world.samples)
    for i in heldout:
        kept = 1 if world.kind == "sequence" else 0
        samples[i] = replace(samples[i], tokens=samples[i].tokens[:kept] + samples[i].tokens[:kept:-1])
    activations = {at: value for at, value in world.activations.items() if at[1] not in heldout}
    for i in heldout:
        for feature in range(world.n_features):
            position = 0 if world.kind == "set" else len(samples[i].tokens) - 1
            if position >= 0:
                activations[feature, i, position] = 100.0 + feature
    return replace(world, samples=tuple(samples), activations=activations)


def said(world: World, seed: int) -> list[str]:
    """What every explainer asks or says about every feature, errors included."""
    store = memory_store(world)
    answers = []
    for explainer in (kind() for kind in EXPLAINERS.values()):
        ask: Callable[..., object] = explainer.request if explainer.needs_model else explainer.explain
        for feature in range(world.n_features):
            try:
                answers.append(repr(ask(store, feature, seed)))
            except SaeInterpError as error:
                answers.append(f"{type(error).__name__}: {error}")
    return answers


@pytest.mark.parametrize("world", [pets(), outfits()], ids=lambda w: w.name)
def test_what_heldout_units_hold_changes_nothing(world: World) -> None:
    changed = with_other_heldout(world)
    assert changed.activations != world.activations
    assert changed.samples != world.samples
    assert said(changed, 0) == said(world, 0)


def test_what_the_explain_units_hold_changes_something() -> None:
    world = pets()
    fewer = {at: v for at, v in world.activations.items() if world.samples[at[1]].unit != "d0"}
    assert said(replace(world, activations=fewer), 0) != said(world, 0)


def test_no_word_of_a_heldout_document_is_shown() -> None:
    assert "secret" not in "".join(said(pets(), 0))
    assert "secret" in {token.strip() for token in memory_store(pets()).tokens}


@settings(max_examples=60, deadline=None)
@given(world=worlds(), seed=st.integers(0, 5))
def test_in_any_world_heldout_units_change_nothing(world: World, seed: int) -> None:
    samples = tuple(replace(s, unit=f"d{i % 7}") for i, s in enumerate(world.samples))
    world = replace(world, samples=samples)
    assert said(with_other_heldout(world), seed) == said(world, seed)
