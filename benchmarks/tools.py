"""How fast the server starts and answers: a real client over stdio, real features of the demo store.

python -m benchmarks.tools --store demo-store [--write docs/performance.md]
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.faces.mcp_client import open_client
from saeinterp_mcp.store.open import open_store

N_FEATURES = 200
N_STARTS = 9


def calls_for(feature: int, families: list[str], group: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """The questions that are timed, by the name they have in the table."""
    return {
        "feature_overview": ("feature_overview", {"feature": feature}),
        "family_sweep (32 levels)": ("family_sweep", {"feature": feature, "family": families[0]}),
        "family_sweep, a slice": (
            "family_sweep",
            {"feature": feature, "family": families[1], "where": "kind=source"},
        ),
        "family_heatmap": (
            "family_heatmap",
            {"feature": feature, "family_x": families[2], "family_y": families[1]},
        ),
        "group_sweep": ("group_sweep", {"feature": feature, "by": group}),
        "token_influence": ("token_influence", {"feature": feature}),
        "token_influence by family": ("token_influence", {"feature": feature, "by": "family"}),
        "token_interactions": (
            "token_interactions",
            {"feature": feature, "families": families, "scope": "before", "window": 4},
        ),
        "test_rule (explain)": (
            "test_rule",
            {"feature": feature, "rule": f"family:{families[1]}>=1", "split": "explain"},
        ),
        "stability (split_half)": ("stability", {"feature": feature, "method": "split_half"}),
        "stability (shuffle_null)": ("stability", {"feature": feature, "method": "shuffle_null"}),
        "decoder_influence": ("decoder_influence", {"feature": feature}),
        "feature_examples": ("feature_examples", {"feature": feature}),
        "similar_features": ("similar_features", {"feature": feature}),
    }


async def time_tools(store: Path) -> dict[str, list[float]]:
    """Milliseconds of each call, by question; a first round over every feature is thrown away."""
    opened = open_store(store)
    n_firing = opened.backend.column("stats/n_firing")[:, 1]
    densest = np.argsort(-n_firing)[:20].tolist()
    alive = np.flatnonzero(n_firing > 0)
    others = rng(0, "benchmark").choice(alive, N_FEATURES - len(densest), replace=False).tolist()
    families, group = ["indentation", "quote", "bracket_depth"], "module"
    times: dict[str, list[float]] = {}
    command = [sys.executable, "-m", "saeinterp_mcp", "serve", "--store", str(store)]
    async with open_client(command) as session:
        for measured in (False, True):
            for feature in [*densest, *others] if measured else densest[:3]:
                for name, (tool, arguments) in calls_for(int(feature), families, group).items():
                    started = time.perf_counter()
                    await session.call(tool, arguments)
                    if measured:
                        times.setdefault(name, []).append(1000 * (time.perf_counter() - started))
    return times


def time_first_reply(store: Path) -> list[float]:
    """Seconds from starting the process to its reply to `initialize`."""
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "bench", "version": "0"},
        },
    }
    seconds = []
    for _ in range(N_STARTS):
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "saeinterp_mcp", "serve", "--store", str(store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        seconds.append(time.perf_counter() - started)
        process.terminate()
        process.wait()
    return seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    store = parser.parse_args().store
    starts = time_first_reply(store)
    print(f"first reply: median {median(starts):.2f} s, slowest {max(starts):.2f} s of {N_STARTS} starts\n")
    print(f"| question ({N_FEATURES} features, the 20 densest among them) | p50 ms | p95 ms | slowest ms |")
    print("|---|---|---|---|")
    for name, values in asyncio.run(time_tools(store)).items():
        p50, p95 = np.quantile(values, [0.5, 0.95])
        print(f"| `{name}` | {p50:.1f} | {p95:.1f} | {max(values):.1f} |")


if __name__ == "__main__":
    main()
