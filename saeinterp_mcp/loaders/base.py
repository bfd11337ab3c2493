"""ActivationLoader: where a feature fires, straight from other people's files; and what all loaders hold to.

A loader answers for one feature at a time. What it returns is the same whatever the format: global rows (row
offsets summed over batches in the order of their numbers), ascending, and the activations there, none of them 0.
"""

from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.errors import BadStore, UnknownName

Negatives = Literal["drop", "abs"] | None
"""None refuses a negative activation, `drop` leaves it out, `abs` takes its size."""

REPAIR = "Make the file again from its source; what can be read of it is not all of it."


class Loaded(NamedTuple):
    """Where a feature fires: `indices` (n,) int64 ascending global rows, `activations` (n,) float32 above 0."""

    indices: NDArray[np.int64]
    activations: NDArray[np.float32]


class ActivationLoader(Protocol):
    """What reads the activations of one feature from somebody's files."""

    @property
    def is_available(self) -> bool:
        """Whether the files are there. What is there may still be refused as damaged or unfinished."""
        ...

    @property
    def n_features(self) -> int:
        """How many features there are, those that never fire too."""
        ...

    @property
    def n_samples(self) -> int | None:
        """How many rows there are; None where the files do not say (neuron files without their metadata)."""
        ...

    def load(self, feature_id: int) -> Loaded | None:
        """Where a feature fires; None if the files are not there.

        Raises:
            UnknownName: there is no such feature.
            BadStore: a file is damaged, unfinished, or holds what is no activation (NaN, infinity, and negative
                numbers unless the loader was told what to do with them).
        """
        ...


def check_feature(feature_id: int, n_features: int, where: object) -> None:
    """Refuse a feature that is not there; a negative index would count from the end."""
    if not 0 <= feature_id < n_features:
        raise UnknownName(f"feature {feature_id} is not in {where}, which has 0 to {n_features - 1}")


def firing_only(
    indices: NDArray[np.int64], values: NDArray[Any], where: object, feature_id: int, negatives: Negatives
) -> Loaded:
    """What is left of the entries of one feature: float32 above 0.

    A number that is 0 in float32 is silence. `indices` are ascending.

    Raises:
        BadStore: NaN, infinity, or a negative number and no word about negatives.
    """
    found = finite_only(indices, values, where, feature_id)
    below = found.activations < 0
    if not below.any():
        return found
    if negatives is None:
        at = int(np.flatnonzero(below)[0])
        raise BadStore(
            where,
            "activations above 0",
            f"{found.activations[at]} for feature {feature_id} at row {found.indices[at]}",
            "Say what to do with negative activations: negatives='drop' or 'abs'.",
        )
    if negatives == "abs":
        return Loaded(found.indices, np.abs(found.activations))
    return Loaded(found.indices[~below], found.activations[~below])


def finite_only(indices: NDArray[np.int64], values: NDArray[Any], where: object, feature_id: int) -> Loaded:
    """The entries of one feature in float32, without those that are 0 in it, negative ones included.

    Raises:
        BadStore: NaN or infinity.
    """
    activations = to_float32(values)
    if not np.isfinite(activations).all():
        at = int(np.flatnonzero(~np.isfinite(activations))[0])
        raise BadStore(
            where,
            "numbers that are finite in float32",
            f"{values[at]} for feature {feature_id} at row {indices[at]}",
            REPAIR,
        )
    keep = activations != 0
    return Loaded(indices[keep], activations[keep])


def to_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Cast numbers of any type; what is too large becomes infinite and is refused by who asked."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)
