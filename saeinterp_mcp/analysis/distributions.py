"""Quantiles and tails of a few distributions, from scipy.special.

scipy is imported on first use: it takes half a second, which a server that is asked its name must not spend.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def t_quantile(q: float, df: Any) -> Array:
    """Quantile of Student's t with `df` degrees of freedom."""
    from scipy import special

    return np.asarray(special.stdtrit(df, q), dtype=np.float64)


def t_beyond(t: Any, df: Any) -> Array:
    """Share of Student's t further from 0 than t, on both sides."""
    from scipy import special

    return np.asarray(2 * special.stdtr(df, -np.abs(t)), dtype=np.float64)


def beta_quantile(q: Any, a: Any, b: Any) -> Array:
    """Quantile of the beta distribution."""
    from scipy import special

    return np.asarray(special.betaincinv(a, b, q), dtype=np.float64)


def normal_below(z: Any) -> Array:
    """Share of the standard normal below z."""
    from scipy import special

    return np.asarray(special.ndtr(z), dtype=np.float64)


def gamma_tails(shape: Any, x: Any) -> tuple[Array, Array]:
    """(below, above) x of the gamma distribution of scale 1."""
    from scipy import special

    return np.asarray(special.gammainc(shape, x)), np.asarray(special.gammaincc(shape, x))
