"""Do the contenders find the same activations? Feature, position and value of each are compared with ours."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from benchmarks.collection.records import Agreement

TOLERANCE = 1e-3
"""How far two values of one feature and position may be apart."""


def compare(peer: str, ours: Path, theirs: Path, sae: Path) -> Agreement:
    """Compare two files of kept activations; position 0 is left out of both."""
    threshold = load_file(sae / "sae_weights.safetensors")["threshold"].astype(np.float64)
    (our_keys, our_values, _), (their_keys, their_values, n_at_bos) = (
        _read(path, len(threshold)) for path in (ours, theirs)
    )
    _, mine, other = np.intersect1d(our_keys, their_keys, assume_unique=True, return_indices=True)
    apart = np.abs(our_values[mine] - their_values[other])
    lone_keys = np.concatenate([np.delete(our_keys, mine), np.delete(their_keys, other)])
    lone_values = np.concatenate([np.delete(our_values, mine), np.delete(their_values, other)])
    above = np.abs(lone_values - threshold[lone_keys % len(threshold)])
    return Agreement(
        peer=peer,
        n_same=int((apart <= TOLERANCE).sum()),
        n_differ=int((apart > TOLERANCE).sum()),
        n_only_ours=len(our_keys) - len(mine),
        n_only_theirs=len(their_keys) - len(other),
        largest_difference=float(apart.max(initial=0)),
        furthest_from_threshold=float(above.max(initial=0)),
        n_at_bos=n_at_bos,
    )


def _read(path: Path, n_features: int) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Key of (row, position, feature) and value of each activation after position 0, and how many are at 0."""
    with np.load(path, allow_pickle=False) as kept:
        row, position, feature = (kept[name].astype(np.int64) for name in ("row", "position", "feature"))
        value = kept["value"].astype(np.float64)
    after = position > 0
    keys = (row * (position.max() + 1) + position) * n_features + feature
    return keys[after], value[after], int((~after).sum())
