"""Seconds and memory of every stage of one `validate`, seen from outside; and of queries over what it published."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from benchmarks.storage.bench import anonymous_bytes, process_tree
from benchmarks.storage.findings import load, machine
from pipeline.validation.config import ValidationRun
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.validation.folder import Validation
from saeinterp_mcp.validation.metrics import metric

SAMPLE_SECONDS = 0.1
TICKS = os.sysconf("SC_CLK_TCK")
N_CALLS = 9
TARGETS = {"seconds": 300.0, "peak_bytes": 3e9, "query_seconds": 0.3}


class StageCost(Frozen):
    """What a stage took."""

    stage: str
    seconds: float
    cpu_seconds: float
    """Of all processes; on a busy machine the clock says less than this."""
    peak_bytes: int
    """Anonymous memory of all processes together, sampled: what they hold beside files."""


class QueryCost(Frozen):
    """What a question took, a new process' first call left out."""

    question: str
    p50_seconds: float
    slowest_seconds: float
    rows: int


class Results(Frozen):
    """Everything a run found."""

    machine: dict[str, Any]
    n_features: int
    n_examples: int
    n_explanations: int
    workers: int
    stages: list[StageCost]
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    second_run_seconds: float
    """The same command again: nothing is to be done."""
    queries: list[QueryCost]
    targets: dict[str, float] = TARGETS


def measure(config: Path, workers: int) -> Results:
    """Run `validate` with every text in the cache, then again, then ask."""
    facts = machine()
    run = ValidationRun.load(config)
    assert run.work is not None, "load sets work"
    assert run.out is not None, "load sets out"
    for path in (run.out, *(one for one in run.work.iterdir() if one.name != "vectors")):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    stages, seconds, cpu = watch(config, run.work, workers)
    again = time.monotonic()
    subprocess.run(command(config, workers), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    again = time.monotonic() - again
    found = Validation(run.out)
    rows = {
        name: found.table(name).select(pl.len()).collect().item()
        for name in ("activation_examples", "explanation_embeddings")
    }
    return Results(
        machine={**facts, "load_at_end": load()},
        n_features=found.manifest.n_features,
        n_examples=rows["activation_examples"],
        n_explanations=rows["explanation_embeddings"],
        workers=workers,
        stages=stages,
        seconds=round(seconds, 1),
        cpu_seconds=round(cpu, 1),
        peak_bytes=max(one.peak_bytes for one in stages),
        second_run_seconds=round(again, 1),
        queries=queries(found),
    )


def command(config: Path, workers: int) -> list[str]:
    return [sys.executable, "-m", "pipeline", "validate", str(config), "--workers", str(workers)]


def watch(config: Path, work: Path, workers: int) -> tuple[list[StageCost], float, float]:
    """(what each stage took, seconds of the whole command, its CPU seconds)."""
    peaks: dict[str, int] = {}
    cpu: dict[str, float] = {}
    started, before, last = time.monotonic(), 0.0, ""
    with subprocess.Popen(command(config, workers), stdout=subprocess.DEVNULL) as child:
        while child.poll() is None:
            stage = _at_work(work)
            tree = process_tree(child.pid)
            peaks[stage] = max(peaks.get(stage, 0), sum(anonymous_bytes(pid) for pid in tree))
            now = max(before, sum(_cpu_seconds(pid) for pid in tree))
            cpu[stage] = cpu.get(stage, 0.0) + now - before
            before = now
            if stage != last:
                _tell(last, cpu, peaks)
                last = stage
            time.sleep(SAMPLE_SECONDS)
    seconds = time.monotonic() - started
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, "validate")
    log = [json.loads(line) for line in (work / "build_log.jsonl").read_text(encoding="utf-8").splitlines()]
    stages = [_cost(one["stage"], float(one["seconds"]), peaks, cpu) for one in log]
    others = seconds - sum(one.seconds for one in stages)
    return [*stages, _cost("start, hashes, publishing", others, peaks, cpu, "")], seconds, sum(cpu.values())


def _cost(
    name: str, seconds: float, peaks: dict[str, int], cpu: dict[str, float], key: str | None = None
) -> StageCost:
    at = name if key is None else key
    return StageCost(
        stage=name,
        seconds=round(seconds, 1),
        cpu_seconds=round(cpu.get(at, 0.0), 1),
        peak_bytes=peaks.get(at, 0),
    )


def _tell(stage: str, cpu: dict[str, float], peaks: dict[str, int]) -> None:
    said = (
        f"{stage or 'between stages'}: {cpu.get(stage, 0.0):.1f} CPU s, {peaks.get(stage, 0) / 1e6:,.0f} MB"
    )
    print(said, file=sys.stderr, flush=True)


def _at_work(work: Path) -> str:
    """The stage whose unfinished artifact is there."""
    found = [path.name.removesuffix(".partial") for path in work.glob("*.partial")] if work.is_dir() else []
    return found[0] if found else ""


def _cpu_seconds(pid: int) -> float:
    """Of a process, and of its children that have ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


def queries(found: Validation) -> list[QueryCost]:
    """Questions about all features at once, by the published tables."""
    asked: dict[str, Callable[[], pl.DataFrame]] = {
        "the whole table of features (explanation, scores, similarities)": lambda: found.table(
            "features"
        ).collect(),
        "features in four groups of the mean detection score": lambda: grouped(found),
        "the metric score_detection of every feature, nothing cached": lambda: as_frame(
            found, "score_detection"
        ),
        "the metric match_rate of every feature, nothing cached": lambda: as_frame(found, "match_rate"),
        "features by match rate, with their pattern type": lambda: (
            found.table("ex_act_pattern_matching")
            .select("feature_id", "pattern_type", "match_rate", "match_percentile")
            .sort("match_rate", "feature_id", descending=[True, False], nulls_last=True)
            .collect()
        ),
        "all there is about one feature, of six tables": lambda: pl.DataFrame(
            {
                name: len(found.of_feature(name, 823))
                for name in (
                    "features",
                    "scores",
                    "activation_example_similarity",
                    "interfeature_similarity",
                    "explanation_alignment",
                    "ex_act_pattern_matching",
                )
            }
        ),
    }
    return [_timed(question, ask) for question, ask in asked.items()]


def as_frame(found: Validation, name: str) -> pl.DataFrame:
    """A metric as `features_search` reads it the first time."""
    read = metric(Validation(found.path), name, found.manifest.n_features)
    return pl.DataFrame({"value": read.values, "n": read.n})


def grouped(found: Validation) -> pl.DataFrame:
    """Features by the mean of their detection scores: below .5, .6, .7, above, and those without one."""
    value = pl.col("scores").explode().struct.field("detection")
    mean = found.table("features").group_by("feature_id").agg(value.mean().alias("mean"))
    return (
        mean.with_columns(pl.col("mean").cut([0.5, 0.6, 0.7], left_closed=True).alias("group"))
        .group_by("group")
        .agg("feature_id")
        .collect()
    )


def _timed(question: str, ask: Callable[[], pl.DataFrame]) -> QueryCost:
    rows, times = len(ask()), []
    for _ in range(N_CALLS):
        started = time.perf_counter()
        ask()
        times.append(time.perf_counter() - started)
    return QueryCost(
        question=question,
        p50_seconds=round(median(times), 4),
        slowest_seconds=round(max(times), 4),
        rows=rows,
    )
