"""A dry run: what a run would ask and cost, before anything is asked."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from pipeline.autointerp.config import Execution, Method, RunConfig, ScoreConfig
from pipeline.autointerp.drafts import drafts_of, source_of
from pipeline.autointerp.explaining import explainer_of
from pipeline.autointerp.run import Task
from pipeline.autointerp.scoring import known_scores, needs_judge, prepare
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.asking.budget import Estimate, estimate
from saeinterp_mcp.asking.ledger import Ledger
from saeinterp_mcp.asking.prices import load_prices
from saeinterp_mcp.clients.base import Request
from saeinterp_mcp.clients.open_client import open_client
from saeinterp_mcp.errors import SaeInterpError
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.store.base import Store

LOOKED_AT: Final = 100
"""Features whose questions are made to estimate those of all."""
USUAL_CLAIM: Final = "x" * 240
"""Stands for a label that is not written yet: about as long as one and its explanation."""


class Forecast(Frozen):
    """What is left to be asked of one client."""

    purpose: str
    client: str
    estimate: Estimate
    n_on_record: int
    """Answers that are there already and cost nothing."""


class DryRun(Frozen):
    """What a run would do."""

    n_features: int
    n_looked_at: int
    """Features whose requests were made; the rest is taken to be like them."""
    n_cannot: int
    """Of these, features with nothing to ask about."""
    forecasts: tuple[Forecast, ...]

    @property
    def usd(self) -> float | None:
        """At most; None where a price is unknown."""
        known = [f.estimate.usd for f in self.forecasts]
        return None if None in known else sum(usd for usd in known if usd is not None)


def dry_run(
    store: Store, ledger: Ledger, config: RunConfig, execution: Execution, tasks: Sequence[Task]
) -> DryRun:
    """Make the requests of up to LOOKED_AT tasks, and count those of all by them. Controls are not counted."""
    chosen = _some(tasks)
    drafts = drafts_of(store, source_of(store, config.explain)) if config.explain else {}
    explain, n_cannot = _explain_requests(store, config, [t for t in chosen if t.feature not in drafts])
    asked: dict[tuple[str, str], list[Request]] = {}
    if config.explain is not None and config.explain.model is not None:
        asked["explain", config.explain.model] = list(explain.values())
    if config.score is not None and config.score.judge is not None:
        labels = [label for task in chosen if (label := _label(task, drafts, explain, config)) is not None]
        for method, requests in _score_requests(store, config.score, labels).items():
            asked[f"score:{method}", config.score.judge] = requests
    times = len(tasks) / max(1, len(chosen))
    prices = load_prices(execution.prices)
    forecasts = []
    for (purpose, spec), requests in asked.items():
        name = open_client(spec).name
        known = ledger.answered([request.key(name) for request in requests])
        new = [request for request in requests if request.key(name) not in known]
        found = _scaled(estimate(new, name, prices, execution.batch), times)
        forecasts.append(
            Forecast(purpose=purpose, client=name, estimate=found, n_on_record=round(len(known) * times))
        )
    return DryRun(
        n_features=len(tasks), n_looked_at=len(chosen), n_cannot=n_cannot, forecasts=tuple(forecasts)
    )


def _some(tasks: Sequence[Task]) -> list[Task]:
    if len(tasks) <= LOOKED_AT:
        return list(tasks)
    picks = rng(0, "dry run").choice(len(tasks), LOOKED_AT, replace=False)
    return [tasks[i] for i in sorted(picks.tolist())]


def _explain_requests(
    store: Store, config: RunConfig, tasks: Sequence[Task]
) -> tuple[dict[int, Request], int]:
    """Feature to what would be asked about it, and how many have nothing to ask about."""
    if config.explain is None or config.explain.model is None:
        return {}, 0
    explainer = explainer_of(config.explain)
    found, n_cannot = {}, 0
    for task in tasks:
        try:
            found[task.feature] = explainer.request(store, task.feature, config.explain.seed)
        except SaeInterpError:
            n_cannot += 1
    return found, n_cannot


def _label(
    task: Task, drafts: Mapping[int, Label], asked: Mapping[int, Request], config: RunConfig
) -> Label | None:
    """What would be scored: a label that is there, or one of usual length; None where there will be none."""
    label = task.label or drafts.get(task.feature)
    if label is not None:
        return None if label.retired or label.status == "unclear" else label
    if config.explain is not None and config.explain.model is not None and task.feature not in asked:
        return None
    return Label(label_id="", feature=task.feature, revision=1, text=USUAL_CLAIM)


def _score_requests(
    store: Store, config: ScoreConfig, labels: Sequence[Label]
) -> dict[Method, list[Request]]:
    found: dict[Method, list[Request]] = {method: [] for method in config.methods if needs_judge(method)}
    judge = open_client(config.judge).name if config.judge else None
    for label in labels:
        known = known_scores(store, label, config, judge) if label.label_id else {}
        for method in found:
            # of a score that lacks answers the missing ones are asked for; those on record cost nothing
            if method not in known or known[method].n_failed:
                with suppress(SaeInterpError):
                    found[method] += [request for request, _ in prepare(store, label, method, config).parts]
    return found


def _scaled(one: Estimate, times: float) -> Estimate:
    counts = {
        name: round(getattr(one, name) * times) for name in ("n_calls", "input_tokens", "output_tokens")
    }
    return one.model_copy(update={**counts, "usd": None if one.usd is None else one.usd * times})


def in_words(found: DryRun) -> str:
    """For a terminal."""
    lines = [f"{found.n_features:,} features; nothing was asked."]
    if found.n_looked_at < found.n_features:
        lines.append(f"Estimated from the requests of {found.n_looked_at} of them.")
    if found.n_cannot:
        lines.append(f"{found.n_cannot} of these {found.n_looked_at} have nothing to explain.")
    for forecast in found.forecasts:
        e = forecast.estimate
        dollars = "price unknown" if e.usd is None else f"at most ${e.usd:,.4f}"
        known = f" ({forecast.n_on_record:,} more are answered already)" if forecast.n_on_record else ""
        lines.append(
            f"{forecast.purpose} by {forecast.client}: {e.n_calls:,} calls{known}, about {e.input_tokens:,} tokens in, "
            f"at most {e.output_tokens:,} out, {dollars} [{e.price}]"
        )
    total = "unknown" if found.usd is None else f"at most ${found.usd:,.4f}"
    return "\n".join([*lines, f"Together: {total}."])
