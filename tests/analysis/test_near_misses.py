"""Near misses found a few at a time are those found by sorting all silent rows."""

import numpy as np
import pytest
from numpy.typing import NDArray

from saeinterp_mcp.analysis.examples import token_log_odds
from saeinterp_mcp.analysis.near_misses import TokenRows, TokenSets
from saeinterp_mcp.analysis.sampling import hash_salt, one_per_unit, seeded_hash

Ints = NDArray[np.int64]
LIMIT = 24


def by_sorting(held: list[list[int]], n_tokens: int, firing: Ints, unit: Ints, feature: int) -> list[int]:
    """The definition: score every silent row, sort, take one a unit."""
    fires = np.zeros(len(held), bool)
    fires[firing] = True
    n, k = np.zeros(n_tokens), np.zeros(n_tokens)
    for row, tokens in enumerate(held):
        for token in tokens:
            n[token] += 1
            k[token] += fires[row]
    odds = token_log_odds(k, n, float(len(firing)), len(held))
    silent = np.flatnonzero(~fires)
    scores = np.array([round(sum(odds[t] for t in held[row]), 9) for row in silent.tolist()])
    order = np.lexsort((seeded_hash(silent, 0, "near_miss", feature), -scores))
    return one_per_unit(silent[order], unit, LIMIT).tolist() if len(firing) else []


def firings(generator: np.random.Generator, n_rows: int, liked: NDArray[np.bool_]) -> list[Ints]:
    """Features that never fire, once, on some tokens mostly, at random, everywhere but for one row, everywhere."""
    likes = liked & (generator.random(n_rows) < 0.9)
    return [
        np.zeros(0, np.int64),
        generator.integers(0, n_rows, 1),
        np.flatnonzero(likes),
        np.flatnonzero(generator.random(n_rows) < 0.3),
        np.delete(np.arange(n_rows), n_rows // 2),
        np.arange(n_rows),
    ]


@pytest.mark.parametrize(("n_rows", "n_tokens"), [(1, 1), (40, 3), (300, 400), (3000, 30)])
@pytest.mark.parametrize("rows_of_unit", [1, 7, 1000])
def test_in_sequences_they_are_those_of_the_definition(n_rows: int, n_tokens: int, rows_of_unit: int) -> None:
    generator = np.random.default_rng(n_rows)
    token = np.minimum(generator.geometric(3 / (n_tokens + 2), n_rows) - 1, n_tokens - 1)
    unit = np.arange(n_rows) // rows_of_unit
    first = np.searchsorted(np.sort(token), np.arange(n_tokens + 1))
    by_token = TokenRows(token.astype(np.uint32), np.argsort(token, kind="stable").astype(np.uint32), first)
    for feature, firing in enumerate(firings(generator, n_rows, token % 3 == 0)):
        found = by_token.nearest(firing, unit, LIMIT, hash_salt(0, "near_miss", feature))
        assert found.tolist() == by_sorting([[t] for t in token.tolist()], n_tokens, firing, unit, feature)


def test_a_tie_of_many_tokens_is_decided_among_all_their_rows() -> None:
    token, unit = np.arange(3000) // 3, np.arange(3000)
    by_token = TokenRows(token.astype(np.uint32), np.arange(3000, dtype=np.uint32), np.arange(0, 3001, 3))
    firing = np.arange(0, 3000, 3)
    found = by_token.nearest(firing, unit, LIMIT, hash_salt(0, "near_miss", 0))
    assert found.tolist() == by_sorting([[t] for t in token.tolist()], 1000, firing, unit, 0)


@pytest.mark.parametrize(("n_rows", "n_tokens"), [(1, 1), (40, 3), (700, 40), (9000, 2)])
@pytest.mark.parametrize("rows_of_unit", [1, 7, 1000])
def test_in_sets_they_are_those_of_the_definition(n_rows: int, n_tokens: int, rows_of_unit: int) -> None:
    generator = np.random.default_rng(n_rows)
    holds = generator.random((n_rows, n_tokens)) < 0.4
    unit = np.arange(n_rows) // rows_of_unit
    held = [np.flatnonzero(row).tolist() for row in holds]
    first = np.concatenate([[0], np.cumsum(holds.sum(1))])
    sets = TokenSets(first, np.nonzero(holds)[1].astype(np.uint32), holds.sum(0), counted=500)
    features = firings(generator, n_rows, holds[:, 0])
    salts = np.array([hash_salt(0, "near_miss", feature) for feature in range(len(features))])
    found = sets.nearest(features, unit, LIMIT, salts)
    assert [rows.tolist() for rows in found] == [
        by_sorting(held, n_tokens, firing, unit, feature) for feature, firing in enumerate(features)
    ]


def test_without_tokens_there_are_none() -> None:
    salts = np.array([hash_salt(0, "near_miss", 0)])
    sets = TokenSets(np.zeros(4, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.int64))
    assert [rows.tolist() for rows in sets.nearest([np.array([1])], np.arange(3), LIMIT, salts)] == [[]]
