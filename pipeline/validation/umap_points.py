"""Points on a plane for directions: UMAP on exact nearest neighbours, the same on every run of one machine.

umap-learn is imported here alone, and when the first picture is drawn: it compiles for seconds.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from saeinterp_mcp.errors import Unavailable

Vectors = NDArray[np.float32]
Floats = NDArray[np.float64]

FEWEST = 5
"""Points from which on there is a picture."""
FEWEST_SPECTRAL = 50
"""Points from which on the first layout is that of the neighbour graph; with fewer its solver fails, and they start
at random places."""
DIGITS = 6
"""Digits that are kept of a place, and of a cosine before neighbours are ranked: last bits depend on the machine."""
CELLS = 2**22
"""Cosines held at a time."""
GROUPS = 64
"""Groups whose maxima bound the k-th largest cosine of a row."""


class Picture(NamedTuple):
    """Where points are drawn."""

    places: Floats
    """(n, 2), rounded to DIGITS."""
    n_neighbors: int
    """As used: at most n - 1."""
    notes: tuple[str, ...]
    """What is not as it was asked for."""


def draw(vectors: Vectors, n_neighbors: int, min_dist: float, seed: int) -> Picture | str:
    """A picture of (n, d) directions of length 1, by cosine; a sentence instead, where there is none.

    `n_neighbors` counts the point itself, as umap-learn does.

    Raises:
        Unavailable: umap-learn is not installed.
    """
    n = len(vectors)
    if n < FEWEST:
        return f"{n} points are too few for a picture; it takes {FEWEST}"
    notes = []
    k = max(2, min(n_neighbors, n - 1))
    if k != n_neighbors:
        notes.append(f"n_neighbors is {k}, not {n_neighbors}: there are {n} points")
    with threadpool_limits(1), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        neighbours, cosines = nearest(vectors, k - 1)
        own = np.arange(n, dtype=np.int64)[:, None]
        distances = np.clip(1 - cosines, 0, 2)
        drawn = _umap()(
            n_neighbors=k,
            min_dist=min_dist,
            # with a larger one it refuses its own default `spread`
            spread=max(1.0, min_dist),
            metric="cosine",
            random_state=seed % 2**32,
            n_jobs=1,
            init="spectral" if n >= FEWEST_SPECTRAL else "random",
            precomputed_knn=(
                np.hstack([own, neighbours]),
                np.hstack([np.zeros((n, 1)), distances]).astype(np.float32),
            ),
        ).fit(vectors)
    notes += sorted({str(one.message).splitlines()[0] for one in said if _tells_of_the_picture(one)})
    places: Floats = np.round(drawn.embedding_.astype(np.float64), DIGITS) + 0.0  # no -0.0
    if not np.isfinite(places).all():
        return "umap-learn found no finite places: too many of the points are the same"
    return Picture(places, k, tuple(notes))


def nearest(vectors: Vectors, k: int) -> tuple[NDArray[np.int64], Floats]:
    """(n, k) the nearest others of each row by cosine, and these cosines, rounded; the nearest first, then the first.

    Exact, by blocks of rows; vectors of length 1, k < n.
    """
    n = len(vectors)
    found = np.empty((n, k), np.int64)
    values = np.empty((n, k))
    step = max(1, CELLS // n)
    for start in range(0, n, step):
        stop = min(start + step, n)
        cosines = vectors[start:stop] @ vectors.T
        cosines[np.arange(stop - start), np.arange(start, stop)] = -np.inf
        found[start:stop], values[start:stop] = _largest(cosines, k)
    return found, values


def _largest(cosines: Vectors, k: int) -> tuple[NDArray[np.int64], Floats]:
    """The k largest of each row and where they are, by (-rounded value, place)."""
    floors = _floors(cosines, k) - 2 * 10.0**-DIGITS
    rows, places = np.nonzero(cosines >= floors[:, None])
    values = np.round(cosines[rows, places].astype(np.float64), DIGITS)
    order = np.lexsort((places, -values, rows))
    first = np.searchsorted(rows, np.arange(len(cosines)))  # `rows` is ascending, and stays so when ordered
    taken = order[first[:, None] + np.arange(k)]
    return places[taken], values[taken]


def _floors(cosines: Vectors, k: int) -> Vectors:
    """For each row a value that at least k reach: the k-th largest of the maxima of groups, or of all."""
    n = cosines.shape[1]
    width = n // GROUPS
    if k > GROUPS or width < 2:
        return np.asarray(np.partition(cosines, n - k, axis=1)[:, n - k])
    maxima = cosines[:, : GROUPS * width].reshape(len(cosines), width, GROUPS).max(axis=1)
    return np.asarray(np.partition(maxima, GROUPS - k, axis=1)[:, GROUPS - k])


def _umap() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it tells of tensorflow, which nothing here needs
            from umap import UMAP
    except ImportError as error:
        raise Unavailable("a picture needs umap-learn: pip install 'saeinterp-mcp[pipeline]'") from error
    return UMAP


def _tells_of_the_picture(said: warnings.WarningMessage) -> bool:
    """Not that no later points can be added (nobody asks for that), nor what libraries tell each other."""
    return issubclass(said.category, UserWarning) and "precomputed_knn" not in str(said.message)
