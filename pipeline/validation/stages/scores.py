"""Scorers' results of every source, our own held-out tests and given `scores.json` files become one table."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from pydantic import Field

from pipeline.config import Execution
from pipeline.fingerprint import write_whole
from pipeline.importers.results.open_results import SCORES as SCORES_FOLDER
from pipeline.importers.results.records import LEAK, Problem
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.config import DataSource, ExplanationEmbeddingsConfig, ScoresConfig
from pipeline.validation.score_statistics import Statistics, statistics_of
from pipeline.validation.score_summaries import (
    NO_FILE,
    PLAIN,
    Given,
    as_ours,
    as_sae_vis,
    compat_statistics,
    document,
    given_statistics,
    read_given,
    write_document,
)
from pipeline.validation.sources import (
    LABELS,
    HeldOut,
    chosen_labels,
    explainer_names,
    given_files,
    is_here,
    label_files,
    leave_out,
    opened,
    sae_differs,
    source_files,
    tests_of,
    told,
    unless_bad,
)
from pipeline.validation.writing import (
    SHARDS,
    read_table,
    run_shards,
    shard_path,
    write_sidecar,
    write_table,
)
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.validation.tables import SCORES as TABLE

METHODS = ("fuzz", "detection", "simulation", "embedding", "surprisal", "intruder")
"""What the table may hold. `example_embedding` of delphi tests no explanation."""
OUR_METHODS = {"fuzzing": "fuzz"}
"""Our own scorers that have another name here."""
BALANCED = ("fuzz", "detection")
Row = dict[str, Any]


class ScoresStageConfig(Frozen):
    """What the stage sees."""

    sae_id: str
    compat: bool
    n_features: int | None = None
    """Of the SAE, where it is known: scores of other features are passed over."""
    data_sources: tuple[DataSource, ...]
    scores: ScoresConfig
    explanation_embeddings: ExplanationEmbeddingsConfig = Field(exclude=True)
    """Whether labels take part, and a given table that says who explained."""
    work: Path | None = Field(exclude=True)


class _Task(NamedTuple):
    """One source."""

    number: int
    source: DataSource
    config: ScoresConfig
    compat: bool
    sae_id: str
    out: Path
    n_features: int | None = None


def external(config: ScoresStageConfig) -> dict[str, Path]:
    """Files of scores; the labels, since a test counts for the words that are in use."""
    given = {f"scores.json/{i}": path for i, path in enumerate(config.scores.given)}
    table = config.explanation_embeddings.given
    if given and table is not None:
        given["explanation_embeddings.parquet"] = table
    labels = label_files(config.work, tests=True) if config.explanation_embeddings.labels else {}
    return source_files(config.data_sources, SCORES_FOLDER) | given_files(given) | labels


def run(
    config: ScoresStageConfig, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    """Write `scores.parquet` and `scores/SOURCE/scores.json`."""
    unknown = [method for method in config.scores.scoring_methods if method not in METHODS]
    if unknown:
        raise BadInput(f"there is no scoring method {unknown[0]!r}; {nearest(unknown[0], METHODS)}")
    notes: list[str] = []
    given = [_of_known(read_given(path), config, notes) for path in config.scores.given]
    _check_given(given, config)
    tasks = [
        _Task(i, source, config.scores, config.compat, config.sae_id, out, config.n_features)
        for i, source in enumerate(config.data_sources)
    ]
    run_shards(out, tasks, _score_source, _is_done, execution.workers, progress)
    frames = [TABLE.empty()]
    for task in tasks:
        frames.append(read_table(TABLE, _shard(task)))
        notes += json.loads(_told(task).read_text(encoding="utf-8"))
    for one in given:
        frames.append(_frame(config.sae_id, _given_rows(one, config, out)))
        if not one.ours and not config.compat:
            notes.append(f"{one.data_source}: {PLAIN}")
    if config.explanation_embeddings.labels:
        frames.append(_frame(config.sae_id, _label_rows(config, notes)))
    table = pl.concat(frames).sort(TABLE.sorted_by, maintain_order=True)
    if (table["held_out"] == "leaked").any():
        notes.append(LEAK)
    write_table(TABLE, table, out / TABLE.file)
    counts = _counts(table)
    write_sidecar(TABLE, out, config.sae_id, config.model_dump(mode="json"), counts, notes)
    for task in tasks:
        _shard(task).unlink()
        _told(task).unlink()
    if (out / SHARDS).is_dir():
        (out / SHARDS).rmdir()
    return Summary(n_in=len(table), n_kept=len(table))


def _shard(task: _Task) -> Path:
    return shard_path(task.out, TABLE.name, task.number)


def _told(task: _Task) -> Path:
    """What a reader of this source's rows must know."""
    return _shard(task).with_suffix(".json")


def _is_done(task: _Task) -> bool:
    return _shard(task).is_file()


def _score_source(task: _Task) -> int:
    """The rows of one source, and its `scores.json`."""
    results = opened(task.source)
    problems: list[Problem] = []
    left_out: Counter[str] = Counter()
    rows: list[Row] = []
    entries: dict[int, dict[str, Any]] = {}
    for file in unless_bad(results.scores(problems), problems, task.config.bad_files, task.source):
        if file.method not in task.config.scoring_methods:
            left_out[file.method] += 1
            continue
        if not is_here(file, task.n_features, problems):
            continue
        statistics = statistics_of(file)
        entry = as_sae_vis(file) if task.compat else as_ours(file, statistics)
        if task.compat:
            statistics = compat_statistics(statistics, entry)
        entries.setdefault(file.feature, {})[file.method] = entry
        rows.append(_row(file.feature, file.method, statistics, "leaked", file.sha256))
    about = {
        "data_source": task.source.name,
        "llm_explainer": results.explainer,
        "llm_scorer": results.scorer,
    }
    frame = _frame(task.sae_id, ({**row, **about} for row in rows))
    if entries:
        content = document(
            sae_id=task.sae_id,
            methods=task.config.scoring_methods,
            compat=task.compat,
            scores=entries,
            **about,  # type: ignore[arg-type]
        )
        write_document(task.out / "scores" / task.source.name / "scores.json", content)
    notes = [f"{task.source.name}: {note}" for note in results.notes]
    notes += sae_differs(task.source, results, task.sae_id) + told(task.source, problems)
    notes += [f"{task.source.name}: {n} files of {method} left out" for method, n in sorted(left_out.items())]
    write_whole(_told(task), json.dumps(notes))
    write_table(TABLE, frame, _shard(task))
    return len(frame)


def _row(feature: int, method: str, statistics: Statistics, held_out: str, sha256: str) -> Row:
    return {
        "feature_id": feature,
        "method": method,
        "held_out": held_out,
        "raw_sha256": sha256,
        **statistics._asdict(),
        "quantiles": list(statistics.quantiles),
    }


def _frame(sae_id: str, rows: Iterator[Row] | Sequence[Row]) -> pl.DataFrame:
    """Rows as the table's, whatever order their keys came in."""
    return pl.DataFrame([{"sae_id": sae_id, **row} for row in rows], schema=TABLE.schema)


def _check_given(given: Sequence[Given], config: ScoresStageConfig) -> None:
    """Refuse files of another SAE, and a source that is there twice."""
    counts = Counter(one.data_source for one in given)
    scored = {source.name for source in config.data_sources if opened(source).scorer is not None}
    for one in given:
        if one.sae_id not in (None, config.sae_id):
            raise BadInput(
                f"{one.path} is of the SAE {one.sae_id!r}, and this run of {config.sae_id!r}; name that sae_id, or "
                "leave the file out"
            )
        if counts[one.data_source] > 1 or one.data_source in scored:
            raise BadInput(f"{one.path}: the scores of data source {one.data_source!r} are given twice")


def _of_known(given: Given, config: ScoresStageConfig, notes: list[str]) -> Given:
    """Without the features that the SAE does not have."""
    n = config.n_features
    beyond = [] if n is None else [feature for feature in given.scores if feature >= n]
    if n is None or not beyond:
        return given
    notes.append(leave_out(given.path, beyond, n, config.scores.bad_files))
    return given._replace(scores={feature: one for feature, one in given.scores.items() if feature < n})


def _given_rows(given: Given, config: ScoresStageConfig, out: Path) -> list[Row]:
    names = explainer_names(
        config.data_sources, config.explanation_embeddings.given, given.data_source, given.llm_scorer
    )
    rows: list[Row] = []
    kept: dict[int, dict[str, Any]] = {}
    for feature, methods in sorted(given.scores.items()):
        for method, entry in sorted(methods.items()):
            if method not in config.scores.scoring_methods or entry == NO_FILE:
                continue
            statistics = given_statistics(method, entry, given.ours, config.compat)
            kept.setdefault(feature, {})[method] = entry
            rows.append(
                {
                    **_row(feature, method, statistics, "unknown", given.sha256),
                    "data_source": given.data_source,
                    "llm_explainer": names.explainer,
                    "llm_scorer": names.scorer,
                }
            )
    content = document(
        given.data_source,
        config.sae_id,
        names.explainer,
        names.scorer,
        config.scores.scoring_methods,
        not given.ours,
        kept,
    )
    write_document(out / "scores" / given.data_source / "scores.json", content)
    return rows


def _label_rows(config: ScoresStageConfig, notes: list[str]) -> list[Row]:
    """Our own held-out tests of the labels that speak for their authors."""
    assert config.work is not None, "ValidationRun.load sets work"
    labels, _ = chosen_labels(config.work)
    kept: dict[tuple[int, str, str, str], HeldOut] = {}
    n_other = n_repeated = 0
    for test in tests_of(config.work):
        label = labels.get((test.feature, test.author))
        method = OUR_METHODS.get(test.method, test.method)
        if method not in config.scores.scoring_methods or label is None or label.text != test.text:
            n_other += 1
            continue
        key = (test.feature, test.author, test.judge or "", method)
        n_repeated += key in kept
        if key not in kept or _weight(test) > _weight(kept[key]):
            kept[key] = test
    if n_other:
        notes.append(f"{LABELS}: {n_other} tests left out: of other methods, or of words no longer in use")
    if n_repeated:
        notes.append(
            f"{LABELS}: {n_repeated} repeated tests left out: the one with most trials counts, then the lower score"
        )
    return [_label_row(method, test) for (_, _, _, method), test in kept.items()]


def _weight(test: HeldOut) -> tuple[int, float]:
    return test.n, -(test.score if test.score is not None else 2.0)


def _label_row(method: str, test: HeldOut) -> Row:
    found = Statistics(score=test.score, low=test.low, high=test.high, n=test.n, n_failed=test.n_failed)
    if test.score is None:
        found = found._replace(reason="too few trials were answered")
    elif method in BALANCED:
        found = found._replace(balanced_accuracy=test.score, balanced_low=test.low, balanced_high=test.high)
    elif method in ("embedding", "surprisal"):
        found = found._replace(auroc=test.score, auroc_low=test.low, auroc_high=test.high)
    words = hashlib.sha256(test.text.encode("utf-8", "surrogatepass")).hexdigest()
    about = {"data_source": LABELS, "llm_explainer": test.author, "llm_scorer": test.judge}
    return {**_row(test.feature, method, found, "yes", words), **about}


def _counts(table: pl.DataFrame) -> dict[str, Any]:
    by = table.group_by("data_source", "method").agg(
        pl.len().alias("rows"),
        pl.col("score").is_null().sum().alias("without_score"),
        pl.col("n_failed").sum(),
        pl.col("n_batches_failed").sum(),
    )
    return {
        "features": table["feature_id"].n_unique(),
        "by_source_and_method": by.sort("data_source", "method").to_dicts(),
    }


SCORES = Stage(
    name="scores",
    config=ScoresStageConfig,
    run=run,
    external=external,
    modules=(
        "pipeline.importers.results.explanation_files",
        "pipeline.importers.results.names",
        "pipeline.importers.results.open_results",
        "pipeline.importers.results.records",
        "pipeline.importers.results.score_files",
        "pipeline.validation.inputs",
        "pipeline.validation.score_statistics",
        "pipeline.validation.score_summaries",
        "pipeline.validation.sources",
        "pipeline.validation.stages.scores",
        "pipeline.validation.writing",
        "saeinterp_mcp.analysis.distributions",
        "saeinterp_mcp.analysis.rule_scores",
        "saeinterp_mcp.validation.names",
        "saeinterp_mcp.validation.tables",
    ),
)
