"""Seeded draws: one seed and one name, one draw, on every machine."""

import hashlib

import numpy as np
from numpy.typing import NDArray


def rng(seed: int, *names: object) -> np.random.Generator:
    """A generator for one purpose; another name gives an independent one."""
    digest = hashlib.blake2b("\0".join([str(seed), *map(str, names)]).encode(), digest_size=8).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def one_per_unit(rows: NDArray[np.int64], row_unit: NDArray[np.integer], limit: int) -> NDArray[np.int64]:
    """The first `limit` of `rows`, in their order, taking no unit twice."""
    seen: set[int] = set()
    taken: list[int] = []
    # in parts: mostly the first few rows are enough
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        for row, unit in zip(part.tolist(), row_unit[part].tolist(), strict=True):
            if unit not in seen:
                seen.add(unit)
                taken.append(row)
                if len(taken) == limit:
                    return np.array(taken, np.int64)
    return np.array(taken, np.int64)


def uniform_silent(
    firing_rows: NDArray[np.int64], n_rows: int, limit: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Up to `limit` different rows drawn uniformly from the silent ones of 0 .. n_rows - 1, ascending.

    `firing_rows` ascending. The j-th silent row is j plus the number of firing rows before it.
    """
    n_silent = n_rows - len(firing_rows)
    picks = (
        np.sort(generator.choice(n_silent, size=min(limit, n_silent), replace=False))
        if n_silent
        else np.zeros(0)
    )
    picks = picks.astype(np.int64)
    return picks + _firing_before(firing_rows, picks)


def _firing_before(firing_rows: NDArray[np.int64], silent: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many firing rows lie before the j-th silent row: those with firing_rows[i] - i <= j, found by bisection."""
    count = np.zeros(len(silent), np.int64)
    for bit in reversed(range(len(firing_rows).bit_length())):
        more = count + (1 << bit)
        last = np.minimum(more, len(firing_rows)) - 1
        count = np.where((more <= len(firing_rows)) & (firing_rows[last] - last <= silent), more, count)
    return count


def seeded_hash(rows: NDArray[np.int64], seed: int, *names: object) -> NDArray[np.uint64]:
    """64 bits for each row, to break ties by: splitmix64 (Steele et al. 2014) of the row and the seed."""
    return mixed(rows, hash_salt(seed, *names))


def hash_salt(seed: int, *names: object) -> np.uint64:
    """What makes `seeded_hash` of one purpose another than that of the next."""
    text = "\0".join([str(seed), *map(str, names)]).encode()
    return np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big"))


def mixed(rows: NDArray[np.integer], salt: np.uint64 | NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`seeded_hash` from its salt, or from one salt a row. Different rows have different hashes under one salt."""
    with np.errstate(over="ignore"):
        z = rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + salt
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


N_RANDOM_PAIRS = 50_000


def random_pairs(n: int, seed: int, *names: object) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """50,000 pairs of different indices below n, the first ones ascending; what a score is compared with."""
    generator = rng(seed, "random pairs", *names)
    first = np.sort(generator.integers(0, n, N_RANDOM_PAIRS))
    return first, (first + 1 + generator.integers(0, max(1, n - 1), N_RANDOM_PAIRS)) % n
