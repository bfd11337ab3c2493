"""From a command to a finished run: the store, the tasks, the ledger, the work, and the report."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.autointerp.asking import check_can_ask
from pipeline.autointerp.config import Execution, LabelChoice, RunConfig
from pipeline.autointerp.drafts import wording_hash
from pipeline.autointerp.report import write_report
from pipeline.autointerp.results import RunResults, summarise
from pipeline.autointerp.run import AutoInterpRun, Outcome, Task, tasks_of
from pipeline.autointerp.selection import Selection, choose_features
from pipeline.progress import Reporter, default_reporter
from saeinterp_mcp.asking.ledger import Ledger
from saeinterp_mcp.asking.runs import Run, run_id
from saeinterp_mcp.asking.status import RunStatus
from saeinterp_mcp.config import VERSION
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.labels.database import LabelFile, now
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.labels.revisions import labels_of
from saeinterp_mcp.operations.judging import ledger_of
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store

PAID = ("refused", "truncated", "invalid", "uncertain")
"""Reasons for a feature without a label that another start does not change."""
PACKAGES = ("saeinterp-mcp", "anthropic", "openai", "transformers", "torch")


class Finished(NamedTuple):
    """What a run left."""

    results: RunResults
    report: Path
    """Folder with report.md, report.html and report.json."""


def start_run(
    location: Path,
    config: RunConfig,
    execution: Execution,
    labels: Path | None = None,
    report: Path | None = None,
    reporter: Reporter | None = None,
) -> Finished:
    """Carry a run out, or go on with it where it was killed or stopped; the same run again does nothing.

    Args:
        location: folder of the store.
        config: what to do.
        execution: how fast, how dear.
        labels: the labels file; beside the store when not given.
        report: folder of the report; beside the store, under the run's name, when not given.
        reporter: told how far it is.

    Raises:
        BadInput: nothing to work on, a model that cannot be asked, another process works on the same run.
        Unavailable: an SDK or a key is missing.
    """
    check_can_ask(config, execution)
    store, ledger = opened(location, labels)
    say = reporter or default_reporter()
    kind = "explain" if config.explain else "score"
    with ExitStack() as stack:
        stack.callback(ledger.close)
        tasks, told = planned(store, config, ledger)
        stack.enter_context(held_open(store))
        # a choice that labels change is kept, so that a run that was killed goes on with its own features
        settings = {**execution.model_dump(mode="json"), "features": [task.feature for task in tasks]}
        with ledger.begin(kind, told, store.lineage, store.fingerprint, len(tasks), settings) as run:
            say.say(f"{run.run}: {len(tasks):,} {'features' if config.explain else 'labels'} of {store.name}")
            with say.working(kind) as advance:
                outcome = asyncio.run(
                    AutoInterpRun(store, config, execution, run, tasks, advance).carry_out()
                )
            if why := outcome.stopped or unanswered(outcome):
                run.finish("stopped", why)
                outcome = outcome._replace(stopped=why)
        results = results_of(store, ledger, run, told, tasks, outcome)
    folder = report or location.resolve().with_name(f"{location.resolve().name}.runs") / run.run
    write_report(folder, results)
    return Finished(results, folder)


def unanswered(outcome: Outcome) -> str | None:
    """Why a run is not done although it worked through everything: questions that the next start can ask again."""
    said = [row.reason or "" for row in outcome.rows]
    reasons = [why.partition(": ")[2] for why in said if why.startswith("explainer: ")]
    n = sum(reason not in PAID and not reason.startswith("invalid answer") for reason in reasons)
    return f"{n} of the explainer's questions have no answer; start again to ask them" if n else None


def opened(location: Path, labels: Path | None) -> tuple[Store, Ledger]:
    """A store, and its ledger.

    Raises:
        BadInput: there is no place for a ledger.
    """
    store = open_store(location, labels=labels)
    ledger = ledger_of(store)
    if ledger is None:
        raise BadInput(
            f"store {store.name!r} has no folder of its own to keep a ledger beside; name a labels file with --labels"
        )
    return store, ledger


@contextmanager
def held_open(store: Store) -> Iterator[None]:
    """Keep the labels file open meanwhile: whoever closes it last empties its log, which takes longer than a label."""
    if not isinstance(store.labels, LabelFile):
        yield
        return
    with closing(store.labels.guarded(store.labels.open)):
        yield


def planned(
    store: Store, config: RunConfig, ledger: Ledger, claim: bool = True
) -> tuple[list[Task], dict[str, Any]]:
    """Tasks, and what names the run: its config with the features and the wording in it.

    Without `claim` nothing of the queue is claimed, and the most important features stand for what it would give.
    """
    told = config.model_dump(mode="json", exclude_none=True)
    told["wording"] = [wording_hash("explain") if config.explain else "", wording_hash("score")]
    selection = config.selection
    labels = None if config.explain else chosen_labels(store, config.labels)
    features = left_off(store, ledger, told) if selection.depends_on_labels else None
    if features is None:
        if selection.queue is not None and not claim:
            selection = Selection(limit=selection.queue)
        if labels is not None:  # so many labels, not the labels of so many features
            selection = selection.model_copy(update={"limit": None})
        features = choose_features(store, selection, run_id("features", told, store.fingerprint))
    tasks = tasks_of(features, labels)
    if labels is not None:
        tasks = tasks[: config.selection.limit]
    told["features"] = fingerprint([[t.feature, t.label.label_id if t.label else None] for t in tasks])
    return tasks, told


def left_off(store: Store, ledger: Ledger, told: dict[str, Any]) -> list[int] | None:
    """Features of the newest run of this very config that was killed or stopped; None where there is none."""
    for run in ledger.runs_of(store.lineage):
        same = {name: value for name, value in run.config.items() if name != "features"} == told
        if (
            same
            and run.fingerprint == store.fingerprint
            and run.state in ("interrupted", "stopped", "failed")
        ):
            return [int(feature) for feature in run.settings["features"]]
    return None


def chosen_labels(store: Store, choice: LabelChoice) -> list[Label]:
    """Labels in use that a score run is about."""

    def fits(label: Label) -> bool:
        return (
            (choice.status is None or label.status == choice.status)
            and (choice.author is None or choice.author in (label.author, label.author_kind))
            and (choice.source is None or label.source == choice.source)
        )

    nothing: list[Label] = []
    return [
        label
        for label in store.need_labels.read(lambda c: labels_of(c, store.lineage), nothing)
        if fits(label)
    ]


def results_of(
    store: Store, ledger: Ledger, run: Run, told: dict[str, Any], tasks: list[Task], outcome: Outcome
) -> RunResults:
    """Everything a report shows."""
    status = ledger.run_status(run.run)
    assert status is not None, "a run that has begun is on record"
    costs = ledger.costs_of(run.run)
    rows = [
        row.model_copy(update={"usd": costs[row.feature].usd if row.feature in costs else 0.0})
        for row in outcome.rows
    ]
    left_out = Counter(row.reason or "" for row in rows if row.state == "left out")
    never = len(tasks) - len(rows)
    if never:
        left_out["not reached before the run ended"] = never
    return RunResults(
        run=run.run,
        store=store.name,
        store_fingerprint=store.fingerprint,
        kind=status.kind,
        state=status.state,
        why=outcome.stopped,
        started_at=status.started_at,
        written_at=now(),
        seconds=status.seconds,
        config={name: value for name, value in told.items() if name != "features"},
        n_features=len(tasks),
        rows=tuple(rows),
        methods=summarise(rows, outcome.controls),
        left_out=dict(left_out),
        untested=dict(outcome.untested),
        usage=usage_of(status.model_dump()),
        versions=_versions(),
    )


def usage_of(status: dict[str, Any]) -> dict[str, Any]:
    """What the ledger counts, under the names a report shows."""
    names = {
        "requests sent": "n_calls",
        "answered": "n_answered",
        "failed, by reason": "n_failed",
        "uncertain (sent before a kill, no answer on record)": "n_uncertain",
        "asked again after a kill": "n_asked_again",
        "input tokens": "input_tokens",
        "output tokens": "output_tokens",
        "tokens read from the cache": "cached_tokens",
        "tokens written to the cache": "written_tokens",
        "US dollars": "usd",
        "seconds of work": "seconds",
    }
    return {shown: status[name] for shown, name in names.items()}


def runs_table(found: Sequence[RunStatus]) -> list[str]:
    """A line a run."""
    if not found:
        return ["no runs; `saeinterp-pipeline explain` starts one"]
    lines = []
    for one in found:
        usd = "price unknown" if one.usd is None else f"${one.usd:,.4f}"
        total = "" if one.n_total is None else f" of {one.n_total:,}"
        why = f" ({one.why})" if one.why else ""
        lines.append(
            f"{one.run}  {one.kind}  {one.state}{why}  {one.n_done:,}{total}  {one.n_calls:,} requests  "
            f"{one.input_tokens + one.cached_tokens + one.written_tokens:,} tokens in  {one.output_tokens:,} out  "
            f"{usd}  {one.started_at}"
        )
    return lines


def _versions() -> dict[str, str]:
    found = {"saeinterp-mcp": VERSION}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
