"""The memory backend against numbers written out by hand: it is what the others are held to."""

from pathlib import Path

import numpy as np

from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from tests.store.contract import StoreContract


class TestMemoryStore(StoreContract):
    def store(self, world: World, folder: Path) -> Store:
        return memory_store(world)


def by_hand() -> Store:
    """Three documents of 2, 1 and 2 counted positions; feature 0 fires 2.0, 3.0 in the first, 5.0 in the third."""
    samples = (
        WorldSample(("<bos>", "a", "b"), unit="one"),
        WorldSample(("<bos>", "a"), unit="two"),
        WorldSample(("<bos>", "b", "b"), unit="three"),
    )
    activations = {(0, 0, 1): 2.0, (0, 0, 2): 3.0, (0, 2, 2): 5.0, (0, 1, 0): 9.0}
    return memory_store(World("sequence", 2, samples, activations, excluded_positions=(0,)))


def test_excluded_positions_are_no_rows_and_their_activations_are_gone() -> None:
    store = by_hand()
    assert store.manifest.n_rows == 5
    assert store.manifest.n_activations == 3
    assert store.manifest.n_positions_stored == 8


def test_sums_of_squares_by_unit_are_those_worked_out() -> None:
    stats = {
        name: float(by_hand().per_feature(f"stats/{name}", 0)[1])
        for name in ("sum", "sumsq", "unit_ss", "unit_sn", "unit_cc", "unit_cn")
    }
    # units: one fires 2 + 3 on 2 rows, three fires 5 on 2 rows
    assert stats == {"sum": 10, "sumsq": 38, "unit_ss": 50, "unit_sn": 20, "unit_cc": 5, "unit_cn": 6}


def test_token_counts_by_unit_are_those_worked_out() -> None:
    column = by_hand().backend.column
    # tokens in order: <bos> (never counted), a, b
    assert column("counts/tokens/n")[1].tolist() == [0, 2, 3]
    assert column("counts/tokens/units")[1].tolist() == [0, 2, 2]
    assert column("counts/tokens/rest_units")[1].tolist() == [3, 2, 2]
    assert column("counts/tokens/nn")[1].tolist() == [0, 2, 5]
    assert column("counts/tokens/n_reference")[1].tolist() == [0, 3, 6]
    assert column("vocabulary/samples").tolist() == [0, 2, 2]


def test_an_effective_maximum_needs_twenty_firings() -> None:
    assert np.isnan(by_hand().per_feature("stats/effective_max", 0))
