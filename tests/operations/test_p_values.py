"""With no difference planted, p is under .05 in about 5 % of worlds, whatever shares whichever documents."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from saeinterp_mcp.analysis.effects import p_values
from saeinterp_mcp.analysis.intervals import Arm, Cross
from saeinterp_mcp.analysis.moments import Moments

N_WORLDS = 3000
Floats = NDArray[np.float64]


def arm(n: Any, s: Floats, fires: Any) -> Arm:
    sums = (
        n.sum(1),
        (n > 0).sum(1),
        (fires > 0).sum(1),
        s.sum(1),
        (s * s).sum(1),
        (s * n).sum(1),
        (n * n).sum(1),
    )
    return Arm(*(np.asarray(v, np.float64) for v in sums))


def worlds(
    units: int, rest_rows: float, label_rows: float, rate: float, rho: float, sigma: float, ratio: float = 1.0
) -> Floats:
    """p of a label in documents that hold the rest too; the label fires at `ratio` times the rate.

    Beta-binomial firing by document (intra-document correlation rho), gamma strengths of variation sigma.
    """
    rng = np.random.default_rng(
        [units, int(1000 * rate), int(10 * rest_rows), int(10 * label_rows), int(100 * ratio)]
    )
    shape = (N_WORLDS, units)
    p = rng.beta(rate * (1 - rho) / rho, (1 - rate) * (1 - rho) / rho, shape) if rho else np.full(shape, rate)
    n = [rng.poisson(label_rows, shape), rng.poisson(rest_rows, shape) + 1]
    fires = [rng.binomial(n[0], p * ratio), rng.binomial(n[1], p)]
    k = sigma**-2
    s = [np.where(c > 0, rng.gamma(np.maximum(c * k, 1e-12)) / k, 0.0) for c in fires]

    def moments(sums: list[Any]) -> Moments:
        a, b = (np.asarray(v, np.float64) for v in sums)
        cross = ((a * b).sum(1), (a * n[1]).sum(1), (n[0] * b).sum(1), (n[0] * n[1]).sum(1))
        label, rest = (arm(n[i], v, fires[i]) for i, v in enumerate((a, b)))
        return Moments(label, rest, Cross(*(np.asarray(v, np.float64) for v in cross)))

    return p_values(moments(s), moments(fires))


@pytest.mark.parametrize(
    ("units", "rest_rows", "label_rows", "rate", "rho", "sigma"),
    [
        (400, 100, 1.5, 0.05, 0.02, 0.7),  # a token of every document, 28 documents with a firing one
        (400, 100, 5, 0.02, 0.05, 0.7),
        (2000, 1, 0.15, 0.10, 0.0, 0.7),  # builds: 30 firing
        (2000, 1, 0.5, 0.10, 0.0, 0.3),
        (400, 100, 1.5, 0.3, 0.1, 0.7),
        (400, 100, 10, 0.05, 0.1, 1.0),
    ],
)
def test_with_enough_firing_the_size_is_what_it_says(
    units: int, rest_rows: float, label_rows: float, rate: float, rho: float, sigma: float
) -> None:
    p = worlds(units, rest_rows, label_rows, rate, rho, sigma)
    # standard errors of these shares: 0.004 and 0.0018
    assert 0.025 < (p < 0.05).mean() < 0.063
    assert (p < 0.01).mean() < 0.015


@pytest.mark.parametrize(
    ("units", "rest_rows", "label_rows", "rate", "rho"),
    [
        (400, 100, 1.5, 0.005, 0.02),
        (400, 100, 0.3, 0.02, 0.05),
        (100, 100, 2, 0.01, 0.1),
        (300, 100, 0.2, 0.05, 0.3),
    ],
)
def test_a_label_that_hardly_fires_is_not_called_different_for_that(
    units: int, rest_rows: float, label_rows: float, rate: float, rho: float
) -> None:
    p = worlds(units, rest_rows, label_rows, rate, rho, 0.7)
    assert (p < 0.05).mean() < 0.063
    assert (p < 0.01).mean() < 0.015


def test_a_suppressor_in_shared_documents_is_found() -> None:
    """A level of 600 rows firing at a tenth of the rate of the rest, and one that never fires."""
    assert (worlds(400, 100, 1.5, 0.05, 0.02, 0.7, ratio=0.1) < 0.01).mean() > 0.95
    assert (worlds(400, 100, 1.5, 0.05, 0.02, 0.7, ratio=0.0) < 0.01).mean() > 0.99
