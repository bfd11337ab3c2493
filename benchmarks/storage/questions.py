"""Targets 9 to 11: what is precomputed, and what is worked out from postings when it is asked."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.storage.bench import Bench, files_of_array
from benchmarks.storage.clock import Cold, cold, warm
from benchmarks.storage.findings import Finding
from saeinterp_mcp.operations.family_heatmap import family_heatmap
from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.similar_features import similar_features
from saeinterp_mcp.operations.slicing import make_slice
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import NO_INDEX
from saeinterp_mcp.store.open import open_store

PRECOMPUTED = {
    "top-k": ("top/rows", "top/values"),
    "histogram": ("stats/histogram",),
    "statistics": ("stats/n_firing", "stats/sum", "stats/sumsq", "stats/max"),
    "neighbours": ("neighbours/coactivation/features", "neighbours/coactivation/scores"),
}
"""A question to the arrays that answer it, an entry of each for a feature."""


def target_9(bench: Bench) -> list[Finding]:
    """What is precomputed, for the densest feature and for a small one."""
    found = []
    for size in ("1K", "500K"):
        f = bench.chosen.by_size[size]
        there = {q: names for q, names in PRECOMPUTED.items() if bench.store.backend.has(names[0])}
        entry = dict.fromkeys(there, f)
        if (place := _place_of_sums(bench.store, f)) is not None:
            there["sweep"], entry["sweep"] = ("sums/labels",), place
        hot = warm({q: _entries(bench.store, names, entry[q]) for q, names in there.items()})
        chilled = cold({q: _entries_cold(bench, names, entry[q]) for q, names in there.items()})
        for state, times, limit in (("warm", hot, 0.1), ("cold", chilled, 0.5)):
            found += [
                _finding(9, bench, f"{state}, {q}, {size}", ms, limit, _arrays(there[q]))
                for q, ms in times.items()
            ]
    if any("sweep" in finding.case for finding in found):
        return found
    how = "not precomputed: the store keeps counts by level and unit, and sweeps are worked out from postings (10)"
    return [*found, _finding(9, bench, "sweep", None, 0.1, how)]


def _place_of_sums(store: Store, feature: int) -> int | None:
    """Entry of a feature in the stored sums by label, which only dense features have."""
    if not store.backend.has("sums/place"):
        return None
    place = int(store.backend.span("sums/place", feature, feature + 1)[0])
    return None if place == NO_INDEX else place


def _arrays(names: tuple[str, ...]) -> str:
    return f"an entry of {', '.join(names)}"


def _entries(store: Store, names: tuple[str, ...], feature: int) -> Callable[[], Any]:
    return lambda: [store.backend.span(name, feature, feature + 1) for name in names]


def _entries_cold(bench: Bench, names: tuple[str, ...], feature: int) -> Cold:
    def prepare() -> Callable[[], Any]:
        store = open_store(bench.store_folder)
        for name in names:
            store.backend.shape(name)
        return _entries(store, names, feature)

    return Cold(files_of_array(bench.store_folder, *names), prepare)


def target_10(bench: Bench) -> list[Finding]:
    """A sweep and a heatmap that nobody planned, from postings and code columns; the whole answer beside them."""
    store, (x, y) = bench.store, bench.heatmap_families
    found = []
    for size, sweep_limit, heatmap_limit in (("100K", 2.0, 3.0), ("500K", 10.0, 15.0)):
        f = bench.chosen.by_size[size]
        ms = warm(
            {
                "sweep": partial(sums_by_code, store, f, (x,)),
                "heatmap": partial(sums_by_code, store, f, (x, y)),
                "family_sweep": partial(family_sweep, store, f, x),
                "family_heatmap": partial(family_heatmap, store, f, x, y),
            },
            rounds=8,
        )
        for what, limit in (("sweep", sweep_limit), ("heatmap", heatmap_limit)):
            case = f"warm, {what}, {size}"
            whole = f"family_{what}"
            how = (
                f"{bench.chosen.n(size):,} activations; mean and firing rate by code, the read included; the operation "
                f"{whole} with clustered intervals, confounding and text takes {ms[whole]:.1f} ms"
            )
            found.append(_finding(10, bench, case, ms[what], limit, how))
    return found


def sums_by_code(store: Store, feature: int, families: tuple[str, ...]) -> tuple[Any, Any]:
    """Firing rows and sums of activation by level of one family, or by pair of levels of two."""
    rows, values = store.activations(feature)
    codes, n = np.zeros(len(rows), np.int64), 1
    for family in families:
        levels = len(store.family(family).levels) + 1
        codes, n = codes * levels + store.codes(family)[rows], n * levels
    return np.bincount(codes, minlength=n), np.bincount(codes, values, n)


def target_11(bench: Bench) -> list[Finding]:
    """Features that fire on the same rows, over all rows and exactly."""
    store = bench.store
    f = bench.chosen.by_size["500K"]
    rows = make_slice(store, f, "all", None).firing[0]
    ms = warm(
        {
            "exact": lambda: np.bincount(store.firing_at(rows)[1], minlength=store.manifest.n_features),
            "similar_features": lambda: similar_features(store, f, split="all"),
        },
        rounds=4,
    )
    case = "warm, exact, 500K"
    how = (
        f"{len(rows):,} activations; the whole operation similar_features over split `all`, which the store has no "
        f"neighbours for; counting the features on the firing rows alone takes {ms['exact']:,.0f} ms"
    )
    return [
        _finding(11, bench, case, ms["similar_features"], 1500, how),
        _finding(11, bench, "sampled, with its error stated", None, 100, "not built: the answer is exact"),
    ]


def _finding(
    target: int, bench: Bench, case: str, measured: float | None, limit: float | None, how: str
) -> Finding:
    return Finding(
        target=target, world=bench.name, case=case, measured=measured, limit=limit, unit="ms", how=how
    )
