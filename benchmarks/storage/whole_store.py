"""Targets 13 to 16: building, size, opening and verifying, remote."""

import time

from benchmarks.storage.bench import Bench, files_of_array
from benchmarks.storage.clock import warm
from benchmarks.storage.findings import Build, Finding
from benchmarks.storage.postings import POSTINGS
from pipeline.verify import verify_store
from saeinterp_mcp.store.open import open_store

ENTRIES_PER_FILE = 2**24
OTHER_FILES = 100
MEBIBYTE = 2**20


def target_13(benches: list[Bench]) -> list[Finding]:
    """Building: speed, memory, and that ten times the activations take at most twelve times as long."""
    builds = [b.build for b in benches if b.build is not None]
    found = [finding for build in builds for finding in _of_build(build)]
    for small in builds:
        for large in builds:
            more = large.n_activations / small.n_activations
            if large.world.split("-")[0] in ("S2", "S3") and small.world.startswith("S2") and 8 < more < 12:
                found.append(
                    Finding(
                        target=13,
                        world=f"{small.world} and {large.world}",
                        case="time for ten times the activations",
                        measured=large.seconds / small.seconds,
                        limit=1.2 * more,
                        unit="x",
                        how=f"{more:.2f} times the activations: {small.seconds:.1f} s and {large.seconds:.1f} s",
                    )
                )
    return found


def _of_build(build: Build) -> list[Finding]:
    slowest = sorted(build.stages.items(), key=lambda item: -item[1])
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest if seconds >= 0.1)
    how = (
        f"`import bundle --workers {build.workers} --max-memory {build.max_memory_gb:g}`, whole command: "
        f"{build.seconds:.1f} s, {build.cpu_seconds:.1f} CPU seconds ({stages}); load before and after "
        f"{build.load[0]:.1f}, {build.load[1]:.1f}"
    )
    together = build.peak_anonymous_total / MEBIBYTE
    return [
        Finding(
            target=13,
            world=build.world,
            case="speed",
            measured=build.n_activations / build.seconds / 1e6,
            limit=5,
            unit="M activations/s",
            at_least=True,
            how=how,
        ),
        Finding(
            target=13,
            world=build.world,
            case="anonymous memory of the largest process",
            measured=build.peak_anonymous / MEBIBYTE,
            limit=512,
            unit="MB",
            how=f"RssAnon of every process of the tree, every 50 ms; {together:,.0f} MB together at most",
        ),
    ]


def target_14(bench: Bench) -> list[Finding]:
    """Size of the postings, and how many files a store is."""
    manifest = bench.store.manifest
    n = manifest.n_activations
    size = sum(path.stat().st_size for path in files_of_array(bench.store_folder, *POSTINGS))
    data = [name for name in manifest.files if not name.endswith("zarr.json")]
    whole = sum(entry.bytes for entry in manifest.files.values())
    how = (
        f"features/rows and features/values; the whole store is {whole / n:.2f} bytes an activation, with the "
        "row-major copy, tokens, codes and summaries"
    )
    return [
        Finding(
            target=14,
            world=bench.name,
            case="feature-major postings",
            measured=size / n,
            limit=8.1,
            unit="bytes/activation",
            how=how,
        ),
        Finding(
            target=14,
            world=bench.name,
            case="data files",
            measured=len(data),
            limit=2 * -(-n // ENTRIES_PER_FILE) + OTHER_FILES,
            unit="files",
            how=f"and {len(manifest.files) - len(data)} zarr.json; rows are stored both ways round",
        ),
        Finding(
            target=14,
            world=bench.name,
            case="compact profile, lossless and f16",
            measured=None,
            limit=4.3,
            unit="bytes/activation",
            how="not built: the default profile is the only one",
        ),
    ]


def target_15(bench: Bench) -> list[Finding]:
    """Opening a store, and verifying it wholly."""
    ms = warm({"open": lambda: open_store(bench.store_folder).n_rows("all")})["open"]
    manifest = bench.store.manifest
    size = sum(entry.bytes for entry in manifest.files.values())
    started = time.perf_counter()
    verify_store(bench.store_folder)
    seconds = time.perf_counter() - started
    return [
        Finding(
            target=15,
            world=bench.name,
            case="open",
            measured=ms,
            limit=20,
            unit="ms",
            how=f"open_store with {len(manifest.files)} files, whose sizes it checks; imports excluded",
        ),
        Finding(
            target=15,
            world=bench.name,
            case="full verify",
            measured=size / seconds / 1e9,
            limit=1,
            unit="GB/s",
            at_least=True,
            how=f"verify_store once: SHA-256 of {size / 1e9:.2f} GB, order, sums, 100 features again; {seconds:.1f} s",
        ),
    ]
