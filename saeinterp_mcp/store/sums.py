"""The stored sums of dense features: which labels they are of, and a feature's part of them."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from saeinterp_mcp.analysis.moments import UnitTotals
from saeinterp_mcp.store.base import Floats, Ints, Store
from saeinterp_mcp.store.layout import NO_INDEX, SUMMED_VALUES
from saeinterp_mcp.store.manifest import Manifest, Split


class Influence(NamedTuple):
    """Tokens that go most with a feature, or against it, best first."""

    tokens: Ints
    sums: Floats
    """(tokens, 14) `layout.LABEL_SUMS`."""
    q: Floats


def places_of_labels(manifest: Manifest) -> dict[str, slice]:
    """Where the labels of each set are in `sums/labels`: `family.NAME` (levels, then any level) and `group.NAME`."""
    sizes = {f"family.{f.name}": len(f.levels) + 2 for f in manifest.families}
    sizes |= {f"group.{g.name}": len(g.values) for g in manifest.groups if len(g.values) <= SUMMED_VALUES}
    places, start = {}, 0
    for name, size in sizes.items():
        places[name] = slice(start, start + size)
        start += size
    return places


class FeatureSums(NamedTuple):
    """A feature's stored sums in a whole split."""

    places: dict[str, slice]
    labels: Floats
    """(L, 14) `layout.LABEL_SUMS` by label."""
    totals: UnitTotals
    """Over all units."""

    def of(self, label_set: str) -> Floats | None:
        """(K, 14) sums by label, of a family one more, any level; None where they are not stored."""
        place = self.places.get(label_set)
        return None if place is None else self.labels[place]


def stored_sums(store: Store, feature: int, split: Split) -> FeatureSums | None:
    """A feature's sums; None where they are not stored."""
    place = _place(store, feature)
    if place is None:
        return None
    labels = store.per_feature("sums/labels", place, split)
    return FeatureSums(_places(store), labels, stored_totals(store, feature, split))


def stored_totals(store: Store, feature: int, split: Split) -> UnitTotals:
    """Sums over all units of a split."""
    names = ("n_firing_units", "sum", "unit_ss", "unit_sn", "n_firing", "unit_cc", "unit_cn")
    return UnitTotals(*(float(store.per_feature(f"stats/{name}", feature, split)) for name in names))


def stored_influence(store: Store, feature: int) -> tuple[Influence, Influence] | None:
    """Tokens with the feature, and against it, in the split `explain`; None where they are not stored."""
    place = _place(store, feature)
    if place is None:
        return None
    tokens, sums, q = (
        store.backend.span(f"influence/{a}", place, place + 1)[0] for a in ("tokens", "sums", "q")
    )
    n = (tokens != NO_INDEX).sum(1)
    up, down = (Influence(tokens[i, : n[i]].astype(np.int64), sums[i, : n[i]], q[i, : n[i]]) for i in (0, 1))
    return up, down


def _place(store: Store, feature: int) -> int | None:
    if not store.backend.has("sums/place"):
        return None
    place = int(store.per_feature("sums/place", feature))
    return None if place == NO_INDEX else place


@lru_cache(maxsize=16)
def _places(store: Store) -> dict[str, slice]:
    return places_of_labels(store.manifest)
