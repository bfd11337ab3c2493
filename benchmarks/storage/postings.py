"""Targets 1 to 8 and 12: where does a feature fire? Ours beside the seed's formats and the machine's own bounds."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.storage.bench import Bench, files_of_array
from benchmarks.storage.clock import Cold, cold, memcpy, sequential_bandwidth, warm
from benchmarks.storage.findings import Finding
from benchmarks.storage.worlds import DOCUMENT_TOKENS
from saeinterp_mcp.operations.slicing import make_slice
from saeinterp_mcp.store.open import open_store

POSTINGS = ("features/rows", "features/values")
BYTES_PER_POSTING = 8


@lru_cache(maxsize=8)
def warm_loads(bench: Bench, size: str) -> dict[str, float]:
    """Milliseconds of every way to load one feature, warm, taken by turns in one run."""
    f = bench.chosen.by_size[size]
    check_same(bench, f)
    store, seed, start_stop = bench.store, bench.seed, _span(bench, f)
    transposed, metadata = seed.open_transposed(), seed.metadata()
    return warm(
        {
            "memcpy": memcpy(BYTES_PER_POSTING * bench.chosen.n(size)),
            "spans": lambda: [store.backend.span(name, *start_stop) for name in POSTINGS],
            "ours": lambda: store.activations(f),
            "neuron": lambda: seed.neuron(f),
            "transposed": lambda: seed.transposed(transposed, f),
            "ours joined": lambda: rows_with_tokens(bench, f),
            "neuron joined": lambda: seed.join(metadata, *seed.neuron(f)),
        }
    )


@lru_cache(maxsize=8)
def cold_loads(bench: Bench, size: str) -> dict[str, float]:
    """Milliseconds of loading one feature with its files out of the page cache."""
    f = bench.chosen.by_size[size]
    return cold({"ours": _ours_cold(bench, (f,)), "neuron": _neuron_cold(bench, (f,))})


@lru_cache(maxsize=4)
def bounds(bench: Bench) -> dict[str, float]:
    """GB/s of this machine while it measures: a memcpy of 4 MB, a cold sequential read of our own shards."""
    copied = 4_000_000
    return {
        "memcpy": copied / warm({"memcpy": memcpy(copied)})["memcpy"] / 1e6,
        "sequential read": sequential_bandwidth(files_of_array(bench.store_folder, "features/values")) / 1e9,
    }


def target_1(bench: Bench) -> list[Finding]:
    """Postings warm within 60 us and three times a memcpy of their bytes."""
    found = []
    for size in bench.chosen.by_size:
        ms = warm_loads(bench, size)
        how = (
            f"Store.activations (int64 rows); the two spans alone (u32, f32) {ms['spans']:.3f} ms; "
            f"memcpy {ms['memcpy']:.3f} ms"
        )
        found.append(_at_most(1, bench, size, "warm", ms["ours"], 0.06 + 3 * ms["memcpy"], how))
    return found


def target_2(bench: Bench) -> list[Finding]:
    """Postings cold within 0.3 ms and twice the time of a sequential read."""
    bandwidth = bounds(bench)["sequential read"]
    return [
        _at_most(
            2,
            bench,
            size,
            "cold",
            cold_loads(bench, size)["ours"],
            0.3 + 2 * BYTES_PER_POSTING * bench.chosen.n(size) / bandwidth / 1e6,
            f"sequential read {bandwidth:.2f} GB/s; store open, files newly opened",
        )
        for size in bench.chosen.by_size
    ]


def target_3(bench: Bench) -> list[Finding]:
    """Warm against the transposed Zarr in its real chunks."""
    how = "chunks (1, 10000), Blosc zstd 3 shuffle, Zarr v2 read by zarr-python"
    return [
        _ratio(3, bench, size, "warm", warm_loads(bench, size), "transposed", limit, how)
        for size, limit in (("1K", 300.0), ("100K", 300.0), ("500K", 50.0))
    ]


def target_4(bench: Bench) -> list[Finding]:
    """Warm against neuron_acts."""
    return [
        _ratio(
            4,
            bench,
            size,
            "warm",
            warm_loads(bench, size),
            "neuron",
            limit,
            "np.load of both",
        )
        for size, limit in (("1K", 6.0), ("100K", 2.2), ("500K", 1.0))
    ]


def target_5(bench: Bench) -> list[Finding]:
    """Cold against neuron_acts; at 500K no worse than a tie."""
    how = "files out of the page cache, newly opened; directory entries stay warm, which favours neuron_acts"
    return [
        _ratio(5, bench, size, "cold", cold_loads(bench, size), "neuron", limit, how)
        for size, limit in (("1K", 1.6), ("500K", 0.85))
    ]


def target_6(bench: Bench) -> list[Finding]:
    """Against a scan of dense batches."""
    f = bench.chosen.by_size["100K"]
    rows = min(100_000, bench.world.n_rows)
    one = warm({"scan": lambda: bench.seed.scan_batch(f)}, rounds=4)["scan"]
    whole = one * bench.world.n_rows / rows
    how = (
        f"{rows:,} rows scanned in {one:,.0f} ms, taken {bench.world.n_rows / rows:.0f} times (extrapolated)"
    )
    return [
        Finding(
            target=6,
            world=bench.name,
            case=f"warm, {size}",
            measured=whole / warm_loads(bench, size)["ours"],
            limit=5000,
            unit="x",
            at_least=True,
            how=how,
        )
        for size in ("100K", "500K")
    ]


def target_7(bench: Bench) -> list[Finding]:
    """100 random features against neuron_acts, warm and cold."""
    features = bench.chosen.random
    store, seed = bench.store, bench.seed
    warm_ms = warm(
        {
            "ours": lambda: store.activations_of(features),
            "neuron": lambda: [seed.neuron(f) for f in features],
        }
    )
    cold_ms = cold({"ours": _ours_cold(bench, features), "neuron": _neuron_cold(bench, features)})
    n = sum(bench.chosen.n_firing[f] for f in features)
    return [
        Finding(
            target=7,
            world=bench.name,
            case=f"{state}, 100 random features",
            measured=ms["neuron"] / ms["ours"],
            limit=3,
            unit="x",
            at_least=True,
            how=f"{n:,} activations in all; ours {ms['ours']:.2f} ms, neuron_acts {ms['neuron']:.2f} ms; one by one",
        )
        for state, ms in (("warm", warm_ms), ("cold", cold_ms))
    ]


def target_8(bench: Bench) -> list[Finding]:
    """Rows with tokens and group against neuron_acts and the metadata join."""
    how = "ours: arrays of token ids and group codes by row; theirs: a polars frame with lists of i64"
    found = []
    for size, limit in (("1K", 10.0), ("100K", 10.0), ("500K", 5.0)):
        ms = warm_loads(bench, size)
        found.append(
            Finding(
                target=8,
                world=bench.name,
                case=f"warm, {size}",
                measured=ms["neuron joined"] / ms["ours joined"],
                limit=limit,
                unit="x",
                at_least=True,
                how=(
                    f"{_count(bench, size)}; {how}; ours {ms['ours joined']:.2f} ms, "
                    f"theirs {ms['neuron joined']:.2f} ms"
                ),
            )
        )
    return found


def target_12(bench: Bench, larger: Bench) -> list[Finding]:
    """The same number of activations in ten times the samples takes the same time."""
    n_of = [b.store.backend.column("stats/n_firing")[:, 1] for b in (bench, larger)]
    wanted = min(100_000, int(n_of[0].max()), int(n_of[1].max()))
    features = [int(np.argmin(np.abs(n - wanted))) for n in n_of]
    ms = warm(
        {
            "small": lambda: bench.store.activations(features[0]),
            "large": lambda: larger.store.activations(features[1]),
        }
    )
    counts = [int(n[f]) for n, f in zip(n_of, features, strict=True)]
    more = larger.world.n_rows / bench.world.n_rows
    return [
        Finding(
            target=12,
            world=f"{bench.name} and {larger.name}",
            case=f"warm, {more:.0f} times the rows",
            measured=ms["large"] / ms["small"] * counts[0] / counts[1],
            limit=1.5,
            unit="x",
            how=(
                f"{counts[0]:,} and {counts[1]:,} activations: {ms['small']:.3f} ms and {ms['large']:.3f} ms, "
                "by activation"
            ),
        )
    ]


def rows_with_tokens(bench: Bench, feature: int) -> tuple[NDArray[Any], ...]:
    """Rows, activations, tokens of each row (with the index of the row) and group, by our own joins."""
    part = make_slice(bench.store, feature, "all", None)
    rows, values = part.firing
    entry, token = part.labels("tokens").of_rows(rows)
    return rows, values, entry, token, part.labels(f"group.{bench.primary_group}").of_rows(rows)[1]


def check_same(bench: Bench, feature: int) -> None:
    """What is timed must be the same activations: ours, brought to the seed's row ids, beside both its formats."""
    rows, values = bench.store.activations(feature)
    column = bench.store.backend.column
    ids = column("samples/source")[bench.store.row_sample[rows]]
    if bench.world.kind == "sequence":
        ids = ids * DOCUMENT_TOKENS + bench.store.row_position[rows]
    order = np.argsort(ids, kind="stable")
    for theirs in (bench.seed.neuron(feature), bench.seed.transposed(bench.seed.open_transposed(), feature)):
        assert np.array_equal(theirs[0], ids[order]), f"feature {feature} fires elsewhere in a seed format"
        assert np.array_equal(theirs[1], values[order]), (
            f"feature {feature} has other values in a seed format"
        )


def _span(bench: Bench, feature: int) -> tuple[int, int]:
    start, stop = bench.store.backend.column("features/indptr")[feature : feature + 2]
    return int(start), int(stop)


def _ours_cold(bench: Bench, features: tuple[int, ...]) -> Cold:
    def prepare() -> Callable[[], Any]:
        store = open_store(bench.store_folder)
        for name in POSTINGS:
            store.backend.shape(name)
        store.backend.column("features/indptr").sum()
        return lambda: store.activations_of(features)

    return Cold(files_of_array(bench.store_folder, *POSTINGS), prepare)


def _neuron_cold(bench: Bench, features: tuple[int, ...]) -> Cold:
    files = [path for f in features for path in bench.seed.files_of_neuron(f)]
    return Cold(files, lambda: lambda: [bench.seed.neuron(f) for f in features])


def _count(bench: Bench, size: str) -> str:
    return f"{bench.chosen.n(size):,} activations"


def _at_most(target: int, bench: Bench, size: str, state: str, ms: float, limit: float, how: str) -> Finding:
    return Finding(
        target=target,
        world=bench.name,
        case=f"{state}, {size}",
        measured=ms,
        limit=limit,
        unit="ms",
        how=f"{_count(bench, size)}; {how}",
    )


def _ratio(
    target: int, bench: Bench, size: str, what: str, ms: dict[str, float], other: str, limit: float, how: str
) -> Finding:
    return Finding(
        target=target,
        world=bench.name,
        case=f"{what}, {size}",
        measured=ms[other] / ms["ours"],
        limit=limit,
        unit="x",
        at_least=True,
        how=f"{_count(bench, size)}; {how}; ours {ms['ours']:.3f} ms, theirs {ms[other]:.3f} ms",
    )
