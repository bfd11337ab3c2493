"""`saeinterp-pipeline verify`: every hash, and what the stored arrays must agree on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.stages.sum_labels import SUMS, sums_of_feature, units_of
from saeinterp_mcp.analysis.firing import effective_max
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.analysis.splits import in_explain, unit_hash
from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.store.base import Store, segment_prefix
from saeinterp_mcp.store.layout import ARRAYS, NO_INDEX
from saeinterp_mcp.store.manifest import SPLITS, read_manifest, verify_files
from saeinterp_mcp.store.open import open_store

RECOMPUTED = 100
STRAIGHT_FEATURES = 20
ADVICE = "The store was written wrongly or changed; make it again."


def verify_store(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """Check a store wholly: hashes, order, sums, splits; statistics of 100 features computed again.

    Returns:
        What was checked, a line each.

    Raises:
        BadStore: something does not hold; path, expected, found, what to do.
    """
    manifest = read_manifest(path)
    verify_files(path, manifest)
    checked = [f"{len(manifest.files)} files have their size and SHA-256"]
    store = open_store(path)
    if manifest.straight is not None:
        return [*checked, _verify_straight(store)]
    read = store.backend.column

    def same(what: str, expected: object, found: object) -> None:
        if expected != found:
            raise BadStore(path / what, str(expected), str(found), ADVICE)

    n_found = 0
    for segment in range(len(manifest.segments)):
        n_found += _verify_segment(store, segment, same)
        progress(n_found, manifest.n_activations)
    same("features/indptr", manifest.n_activations, n_found)
    if len(manifest.segments) > 1:
        rows = np.concatenate([read(f"segments/{k}/store_row") for k in range(len(manifest.segments))])
        same("segments", True, bool(np.array_equal(np.sort(rows), np.arange(manifest.n_rows))))
    checked.append(f"{manifest.n_activations} activations are positive, ordered and the same both ways round")
    units = store.backend.table("samples")["unit"].to_list()
    sample_unit = read("samples/unit")
    n_explain = manifest.n_explain["units"]
    for sample in rng(0, "verify", "samples").permutation(len(units))[:2000].tolist():
        explain = in_explain(unit_hash(units[sample], manifest.split_seed))
        same("samples/unit", explain, bool(sample_unit[sample] < n_explain))
    same("samples/unit", True, bool((np.diff(sample_unit.astype(np.int64)) >= 0).all()))
    checked.append("samples are in the order of their units, splits are as their hashes say")
    for label_set in [*(f"family.{f}" for f in store.families), *(f"group.{g}" for g in store.groups)]:
        counted = [int(v) for v in read(f"counts/{label_set}/n").sum(1)]
        same(f"counts/{label_set}/n", [store.n_rows(s) for s in SPLITS], counted)
    checked.append("label counts add up to all rows")
    features = rng(0, "verify", "features").permutation(manifest.n_features)[:RECOMPUTED].tolist()
    for feature in features:
        _verify_feature(store, int(feature), same)
    checked.append(f"statistics of {len(features)} features are those of their activations")
    if store.backend.has("sums/place"):
        n_summed = _verify_sums(store, features, same)
        checked.append(f"sums by label of {n_summed} of them are those of their activations")
    missing = [
        s.name
        for s in ARRAYS
        if "*" not in s.name and s.name.startswith(("stats", "top")) and not store.backend.has(s.name)
    ]
    same("zarr.json", [], missing)
    return checked


def _verify_straight(store: Store) -> str:
    """Read some features from the foreign files; the loader checks what it reads."""
    straight = store.manifest.straight
    assert straight is not None, "only of a store that is served straight"
    n = min(STRAIGHT_FEATURES, store.manifest.n_features)
    for feature in rng(0, "verify", "straight").permutation(store.manifest.n_features)[:n].tolist():
        rows = store.activations(int(feature)).rows
        if not ((rows[1:] > rows[:-1]).all() and (rows < store.manifest.n_rows).all()):
            raise BadStore(straight.folder, "rows that ascend", f"others for feature {feature}", ADVICE)
    return f"{straight.format} files in {straight.folder} are those of the import; {n} features were read"


Same = Callable[[str, object, object], None]


def _verify_segment(store: Store, segment: int, same: Same) -> int:
    """Check the activations of a segment both ways round; how many there are."""
    manifest, read, prefix = store.manifest, store.backend.column, segment_prefix(segment)
    n_rows = manifest.n_rows
    if len(manifest.segments) > 1:
        n_rows = store.backend.shape(f"segments/{segment}/store_row")[0]
    n_activations = int(read(f"{prefix}features/indptr")[-1])
    for name, n, minors, limit in (
        ("features", manifest.n_features, "rows", n_rows),
        ("rows", n_rows, "features", manifest.n_features),
    ):
        at = f"{prefix}{name}"
        indptr = read(f"{at}/indptr")
        same(f"{at}/indptr", n + 1, len(indptr))
        same(f"{at}/indptr", True, bool((np.diff(indptr) >= 0).all()) and int(indptr[0]) == 0)
        same(f"{at}/indptr", n_activations, int(indptr[-1]))
        for start in range(0, n_activations, 1 << 22):
            stop = min(start + (1 << 22), n_activations)
            minor = store.backend.span(f"{at}/{minors}", start, stop)
            values = store.backend.span(f"{at}/values", start, stop)
            same(f"{at}/{minors}", True, bool((minor < limit).all()))
            same(f"{at}/values", True, bool((np.isfinite(values) & (values > 0)).all()))
            rising = minor[1:] > minor[:-1]
            inside = np.ones(len(minor), bool)
            first = indptr[np.searchsorted(indptr, start) : np.searchsorted(indptr, stop)] - start
            inside[first] = False
            same(f"{at}/{minors}", True, bool(rising[inside[1:]].all()))
    total = [_total(store, f"{prefix}{name}/values", n_activations) for name in ("features", "rows")]
    same(f"{prefix}rows/values", True, bool(np.isclose(total[0], total[1], rtol=1e-9)))
    return n_activations


def _total(store: Store, name: str, n: int) -> float:
    return float(
        sum(
            store.backend.span(name, start, min(start + (1 << 22), n)).astype(np.float64).sum()
            for start in range(0, n, 1 << 22)
        )
    )


def _verify_feature(store: Store, feature: int, same: Callable[[str, object, object], None]) -> None:
    for s, split in enumerate(SPLITS):
        rows, values = store.activations(feature, split)
        same("stats/n_firing", int(store.per_feature("stats/n_firing", feature)[s]), len(rows))
        exact = values.astype(np.float64)
        same(
            "stats/sum",
            True,
            bool(np.isclose(store.per_feature("stats/sum", feature)[s], exact.sum(), rtol=1e-9)),
        )
        same("stats/histogram", len(rows), int(store.per_feature("stats/histogram", feature)[s].sum()))
        top = store.list_of_feature("top/values", feature, split)
        best = np.sort(values)[::-1][: len(top)]
        same("top/values", True, bool(np.array_equal(top, best)))
    maximum = np.float32(effective_max(store.activations(feature, "explain").values))
    stored = store.per_feature("stats/effective_max", feature)
    same("stats/effective_max", True, bool(np.array_equal(maximum, stored, equal_nan=True)))


def _verify_sums(store: Store, features: list[int], same: Same) -> int:
    """Compute the stored sums of some features again; of how many there are any."""
    place = store.backend.column("sums/place")
    dense = np.flatnonzero(place != NO_INDEX)
    same("sums/place", list(range(len(dense))), place[dense].tolist())
    units = units_of(store)
    for name in SUMS:
        same(name, len(dense), store.backend.shape(name)[0])
    summed = [feature for feature in features if place[feature] != NO_INDEX]
    for feature in summed:
        found = sums_of_feature(units, feature)
        for name in SUMS:
            stored = store.per_feature(name, int(place[feature]))
            same(name, True, bool(np.allclose(stored, found[name], rtol=1e-9, atol=0, equal_nan=True)))
    return len(summed)
