from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.training.vectors import ShuffledVectors, held_out_rows


def numbered(n: int, path: Path | None = None) -> NDArray[np.float32]:
    """Vectors of two numbers: their row, and its negative."""
    rows = np.arange(n, dtype=np.float32)
    return np.stack([rows, -rows], axis=1)


def order(n: int, used: NDArray[np.int64], pool_rows: int, seed: int, start: int, length: int) -> list[int]:
    stream = ShuffledVectors(numbered(n), used, seed, pool_bytes=8 * pool_rows, block_rows=4)
    read = stream.read(start, length)
    assert (read[:, 0] == -read[:, 1]).all()
    return [int(row) for row in read[:, 0]]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    pool_rows=st.integers(1, 80),
    seed=st.integers(0, 3),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    data=st.data(),
)
def test_every_pass_holds_each_vector_once_and_reading_in_pieces_changes_nothing(
    n: int, pool_rows: int, seed: int, cuts: list[int], data: st.DataObject
) -> None:
    used = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1))), dtype=np.int64)
    whole = order(n, used, pool_rows, seed, 0, 3 * len(used))
    for epoch in range(3):
        assert sorted(whole[epoch * len(used) : (epoch + 1) * len(used)]) == used.tolist()
    stream = ShuffledVectors(numbered(n), used, seed, pool_bytes=8 * pool_rows, block_rows=4)
    place, pieces = 0, []
    for cut in cuts:
        size = min(cut, len(whole) - place)
        pieces += [int(row) for row in stream.read(place, size)[:, 0]]
        place += size
    assert pieces == whole[:place]


def test_passes_and_seeds_differ() -> None:
    used = np.arange(200)
    passes = [order(200, used, 1000, seed, 200 * epoch, 200) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(rows) for rows in passes}) == 4
    assert passes[0] != sorted(passes[0])


def test_vectors_that_are_far_apart_meet_in_one_pool() -> None:
    """A tenth of the vectors fits in memory; still the first batch comes from all over the file."""
    first = order(10_000, np.arange(10_000), 1000, 0, 0, 500)
    assert min(first) < 500
    assert max(first) > 9500
    assert abs(float(np.mean(first)) - 5000) < 500
    assert abs(float(np.corrcoef(first[:-1], first[1:])[0, 1])) < 0.15


def test_no_more_than_a_pool_is_read_at_a_time(tmp_path: Path) -> None:
    np.save(tmp_path / "vectors.npy", numbered(5000))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    stream = ShuffledVectors(mapped, np.arange(5000), 0, pool_bytes=8 * 400, block_rows=4)
    for place in range(0, 10_000, 250):
        stream.read(place, 250)
        assert stream._pool is not None
        assert len(stream._pool[1]) <= 400


def test_units_are_held_out_whole_and_some_always_remain() -> None:
    units = np.array([7, 7, 7, 1, 1, 3])
    out = held_out_rows(6, units, 0.9, 0)
    assert 0 < out.sum() < 6
    assert all(len(set(out[units == unit])) == 1 for unit in (7, 1, 3))
    assert held_out_rows(1000, None, 0.05, 0).sum() == 50
    assert (held_out_rows(1000, None, 0.05, 0) != held_out_rows(1000, None, 0.05, 1)).any()
    assert held_out_rows(2, None, 0.0001, 0).sum() == pytest.approx(1)
