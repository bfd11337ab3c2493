"""Apriori against counting every set."""

from itertools import combinations

import numpy as np
import pytest

from saeinterp_mcp.analysis.itemsets import frequent_sets, n_fitting


@pytest.mark.parametrize("seed", range(6))
def test_apriori_finds_what_counting_every_set_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_items, size = 7, 4
    held = [rng.random(200) < share for share in rng.uniform(0.1, 0.8, n_items)]
    families = [None, None, "f", "f", "f", "g", "g"]

    def fits(i: int, j: int) -> bool:
        return families[i] is None or families[i] != families[j]

    every = {
        one: int(np.all([held[i] for i in one], axis=0).sum())
        for k in range(1, size + 1)
        for one in combinations(range(n_items), k)
        if all(fits(i, j) for i, j in combinations(one, 2))
    }
    found = frequent_sets(held, size, 20, fits, n_fitting(families, size))
    assert dict(zip(found.sets, found.counts, strict=True)) == {s: n for s, n in every.items() if n >= 20}
    assert found.n_counted + found.n_pruned == len(every)
    assert found.n_counted >= len(found.sets)
