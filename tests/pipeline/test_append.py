"""Appending: any division of the samples into generations ends as one import of all would."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline.importers.run_append import append_bundle, compact_store
from pipeline.verify import verify_store
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import World, memory_store
from saeinterp_mcp.store.open import open_store
from tests.store.contract import StoreContract, assert_same_store
from tests.worlds import Quiet, builds, has_rows, import_world, texts, worlds, write_bundle


def parts_of(world: World, cuts: list[int]) -> list[World]:
    """The world's samples cut into worlds of their own; each numbers its samples from 0."""
    edges = [0, *sorted(cuts), len(world.samples)]
    parts = []
    for start, stop in zip(edges, edges[1:], strict=False):
        inside = {
            (f, s - start, p): v for (f, s, p), v in world.activations.items() if start <= s < stop
        }
        levels = {
            name: {(s - start, p): v for (s, p), v in places.items() if start <= s < stop}
            for name, places in world.position_levels.items()
        }
        parts.append(
            replace(world, samples=world.samples[start:stop], activations=inside, position_levels=levels)
        )
    return parts


def grown(world: World, folder: Path, cuts: list[int]) -> Path:
    """A store of the first part, to which the others were appended one after the other."""
    first, *others = parts_of(world, cuts)
    store = import_world(first, folder / "0")
    for i, part in enumerate(others, 1):
        bundle = write_bundle(part, folder / str(i) / "bundle")
        append_bundle(store, bundle, folder / str(i) / "store", progress=Quiet())
        store = folder / str(i) / "store"
    return store


class TestGrownStore(StoreContract):
    """A store of three segments answers as one would."""

    def store(self, world: World, folder: Path) -> Store:
        return open_store(grown(world, folder, [5, 9]))
