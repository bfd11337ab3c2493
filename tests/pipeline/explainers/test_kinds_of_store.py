"""Stores that lack something: a decoder, silent rows, similar features, families."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from pipeline.explainers import EXPLAINERS
from pipeline.explainers.max_activating import MaxActivating
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import MemoryBackend, World, memory_store
from tests.pipeline.explainers.world import CAT, SWIM, outfits, pets, request_of, store_of


def sampled(world: World) -> Store:
    """The store of an import that holds only chosen examples."""
    backend = memory_store(world).backend
    assert isinstance(backend, MemoryBackend)
    manifest = backend.manifest().model_copy(update={"coverage": "sampled"})
    return Store(MemoryBackend(manifest, backend._arrays, backend._tables))


def test_without_a_decoder_the_output_side_says_what_is_missing() -> None:
    with pytest.raises(NotInStore, match="holds no decoder with unembedding") as refused:
        request_of("output_side", store_of("outfits"), SWIM)
    assert "build from the model" in str(refused.value)


def test_output_tokens_are_those_of_the_weights() -> None:
    """By hand: CAT's direction (1, 0) on the unembedding's first row, 3, 0, 0, -1, its mean 0.5 removed."""
    user = request_of("output_side", store_of("pets"), CAT).user
    assert '1: " naps" +2.5\n</excerpts>' in user
    assert '1: "<<" -1.5\n2: " sat" -0.5\n' in user


@pytest.mark.parametrize("world", [pets(), outfits()], ids=lambda w: w.name)
def test_a_store_of_chosen_examples_can_be_explained_but_not_contrasted(world: World) -> None:
    store, feature = sampled(world), CAT if world.kind == "sequence" else SWIM
    user = request_of("max_activating", store, feature).user
    assert user.startswith(
        "How often the feature fires is not known: the data hold only chosen examples. 10 stands"
    )
    assert "Counted" not in user
    for explainer in ("contrastive", "search"):
        found = EXPLAINERS[explainer]()
        with pytest.raises(NotInStore, match="is sampled"):
            (found.request if found.needs_model else found.explain)(store, feature, 0)
    with pytest.raises(NotInStore, match="is sampled"):
        MaxActivating(statistics=True).request(store, feature, 0)


def test_without_families_and_groups_the_language_of_rules_says_so() -> None:
    world = outfits()
    bare = replace(
        world,
        families=(),
        primary=None,
        attributes={},
        samples=tuple(replace(s, groups={}) for s in world.samples),
    )
    system = request_of("max_activating", memory_store(bare), SWIM).system
    assert "There are no families of tokens here." in system
    assert "There are no groups here." in system
    assert 'For example: token:"a" and not token:"b"' in system


def test_numbers_of_excerpts_are_options() -> None:
    few = MaxActivating(n_top=2, n_spread=1, before=0, after=1).request(store_of("pets"), CAT, 0).user
    block = few.partition("<excerpts>\n")[2]
    assert block.startswith(
        '1: << cat>> sat\nactivations: (" cat", 10)\n2: << cat>> naps\nactivations: (" cat", 8)\n'
    )
    assert "4: " not in block


def test_the_strongest_alone_can_be_asked_for() -> None:
    user = MaxActivating(n_top=1, n_spread=0).request(store_of("pets"), CAT, 0).user
    assert "where it fires (1):" in user
    with pytest.raises(ValidationError):
        MaxActivating(n_top=0)
