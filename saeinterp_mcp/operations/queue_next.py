"""Which feature is labelled next? Given to one worker at a time."""

from typing import Annotated, Literal

from pydantic import Field

from saeinterp_mcp.analysis.text import visible
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels import queue
from saeinterp_mcp.labels.records import QueueEntry
from saeinterp_mcp.operations.base import Result, sealed
from saeinterp_mcp.operations.label_records import Reason
from saeinterp_mcp.operations.queue_orders import Order, by_cluster, by_disagreement, by_importance
from saeinterp_mcp.store.base import Store

Strategy = Literal["importance", "cluster", "disagreement"]


class QueueNext(Result):
    """A feature of the queue."""

    action: str
    feature: int | None
    """None when nothing is left."""
    why: str
    """Why this feature comes next, or how it stands now."""
    reason: str | None
    """What somebody said when it was added, skipped or done."""
    remaining: int
    """Features that can be given after it by this strategy, those that were added among them."""
    worker: str | None
    strategy: str
    state: str | None
    """Of the feature: added, claimed, skipped or done."""


def queue_next(
    store: Store,
    strategy: Annotated[Strategy, Field(description="Order")] = "importance",
    seed_feature: Annotated[int | None, Field(ge=0, description="Of cluster")] = None,
    worker: Annotated[str | None, Field(max_length=100, description="Who asks")] = None,
    action: Annotated[Literal["next", "add", "skip", "done"], Field(description="What to do")] = "next",
    feature: Annotated[int | None, Field(ge=0, description="For add, skip, done")] = None,
    reason: Reason = None,
    priority: Annotated[float | None, Field(allow_inf_nan=False, description="Higher first")] = None,
) -> QueueNext:
    """Claim a feature to label for 24 hours: the most important, like seed_feature, or whose labels disagree.

    add puts one first; label_save completes.
    """
    _check_call(action, strategy, seed_feature, feature, reason, priority)
    database, lineage = store.need_labels, store.lineage
    order = _order(store, strategy, seed_feature)
    entry: QueueEntry | None
    observed = False
    if action == "next":
        claim = queue.claim(database, lineage, worker, order.candidates)
        feature, entry, left = claim.feature, claim.before, claim.remaining
        state = None if feature is None else "claimed"
        why = _nothing_left(store, order) if feature is None else _why(order, claim)
        summary = f"No feature is left: {why}." if feature is None else f"Feature {feature} is next: {why}."
        observed = order.observed and not _added(claim)
    else:
        assert feature is not None, "the call was checked"
        store.check_feature(feature)
        entry = _changed(store, action, feature, worker, reason, priority or 0)
        left = queue.remaining(database, lineage, order.candidates)
        state = entry.state
        why = f"{state}, priority {entry.priority:g}" if action == "add" else state
        summary = f"Feature {feature} is {why}."
    sampled = observed and strategy == "importance" and store.manifest.coverage != "full"
    result = QueueNext(
        operation="queue_next",
        warnings=["this store is sampled: importance is that of the chosen examples alone"]
        if sampled
        else [],
        store=store.name,
        basis="observed" if observed else "judged",
        summary=f"{summary} {left} remain.",
        action=action,
        feature=feature,
        why=why,
        reason=visible(entry.reason) if entry and entry.reason else None,
        remaining=left,
        worker=visible(worker) if worker else None,
        strategy=strategy,
        state=state,
    )
    called = {"action": action, "strategy": strategy, "seed_feature": seed_feature, "feature": feature}
    return sealed(result, store, {**called, "worker": worker, "reason": reason, "priority": priority})


def _check_call(
    action: str,
    strategy: str,
    seed_feature: int | None,
    feature: int | None,
    reason: str | None,
    priority: float | None,
) -> None:
    """Refuse arguments that say nothing in this call, before they are taken for something else."""
    if (strategy == "cluster") != (seed_feature is not None) and action == "next":
        raise BadInput("strategy cluster goes with seed_feature: the feature whose like are to be labelled")
    if action != "next" and feature is None:
        raise BadInput(f"action {action} needs feature")
    if action == "next" and (feature, reason) != (None, None):
        raise BadInput(
            "action next chooses the feature itself; feature and reason go with add, skip and done"
        )
    if action != "add" and priority is not None:
        raise BadInput(f"priority goes with action add, not with {action}")


def _order(store: Store, strategy: Strategy, seed_feature: int | None) -> Order:
    if strategy == "cluster" and seed_feature is not None:
        return by_cluster(store, seed_feature)
    return by_disagreement(store) if strategy == "disagreement" else by_importance(store)


def _changed(
    store: Store, action: str, feature: int, worker: str | None, reason: str | None, priority: float
) -> QueueEntry:
    database, lineage = store.need_labels, store.lineage
    if action == "add":
        return queue.add(database, lineage, feature, worker, reason, priority)
    if action == "skip":
        return queue.skip(database, lineage, feature, worker, reason)
    return queue.done(database, lineage, feature, worker, reason)


def _added(claim: queue.Claim) -> bool:
    """Whether somebody put the feature first, so that no order chose it."""
    before = claim.before
    return before is not None and before.priority is not None and before.state in ("added", "claimed")


def _why(order: Order, claim: queue.Claim) -> str:
    """Why a feature was given. What people wrote stays out of it: it stands in `reason`."""
    assert claim.feature is not None, "a feature was given"
    before = claim.before
    late = f"; a claim of {before.changed_at} ran out" if before and before.state == "claimed" else ""
    if before and before.priority is not None and _added(claim):
        return f"added with priority {before.priority:g}{late}"
    return order.why(claim.feature) + late


def _nothing_left(store: Store, order: Order) -> str:
    """What the strategy is about, and how much of it is in other hands."""
    nothing: dict[str, int] = {}
    counts = store.need_labels.read(lambda c: queue.count_states(c, store.lineage), nothing)
    states = ", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "nothing"
    return (
        f"{order.nothing}. In the queue: {states}; a claim ends after {queue.HELD_HOURS} hours, and action add "
        "brings a feature back"
    )
