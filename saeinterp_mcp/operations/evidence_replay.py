"""Does something that was cited still hold?"""

from typing import Annotated, Any

from pydantic import Field

from saeinterp_mcp.analysis.text import visible_values
from saeinterp_mcp.errors import BadInput, SaeInterpError, UnknownName
from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.labels.database import LabelsInMemory
from saeinterp_mcp.labels.evidence import came_in_a_file, evidence_pattern, recorded_answer
from saeinterp_mcp.labels.records import RecordedAnswer
from saeinterp_mcp.operations.base import Basis, Result, sealed
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.served import ServedStores

MAX_DIFFERENCES = 20
WIDEST, MAX_ROWS = 200, 10_000
"""Rows of a page, and of a whole answer."""
EvidenceId = Annotated[str, Field(max_length=40, description="Id of an answer, ev-...")]


class EvidenceReplay(Result):
    """A recorded call, and whether it gives the same answer now. `evidence` is the id that was asked about."""

    call: dict[str, Any]
    """operation, arguments, store, made_at."""
    holds: bool
    """Whether every number of the answer is as it was."""
    differs: list[dict[str, Any]]
    """field, then, now: the first ones."""
    n_differs: int
    store_changed: bool
    """Whether the store is another generation or build than the one that answered."""
    answered: str
    """The summary then."""


def evidence_replay(
    stores: ServedStores,
    evidence: EvidenceId,
    store: Annotated[str | None, Field(description="Only this store")] = None,
) -> EvidenceReplay:
    """Run a recorded answer's call again: does it still hold, and what differs?"""
    chosen, recorded = find_answer(stores, evidence, store)
    now = ask_again(stores, chosen, recorded)
    then, today = ({k: v for k, v in body.items() if k != "store"} for body in (recorded.result, now.bare))
    found = differences(then, today)
    if came_in_a_file(recorded):  # without the answer: its digest decides
        same = fingerprint({**now.bare, "store": recorded.result["store"]}) == recorded.digest
        found = (
            [] if same else [{"field": "(the answer)", "then": "(not in the label file)", "now": "(object)"}]
        )
    holds = not found
    store_changed = recorded.fingerprint != fingerprint_of(stores, chosen, recorded)
    told = "still holds" if holds else f"does not hold any more: {len(found)} values differ"
    basis: Basis = recorded.result["basis"]
    result = EvidenceReplay(
        operation="evidence_replay",
        store=chosen.name,
        basis=basis,
        summary=f"{evidence} ({recorded.operation} of {recorded.made_at}) {told}"
        f"{'; the store has changed since' if store_changed else ''}.",
        call={
            "operation": recorded.operation,
            "arguments": recorded.arguments,
            "store": chosen.name,
            "made_at": recorded.made_at,
        },
        holds=holds,
        differs=found[:MAX_DIFFERENCES],
        n_differs=len(found),
        store_changed=store_changed,
        answered=str(recorded.result["summary"]),
    )
    return sealed(result, chosen, {"evidence": evidence}).model_copy(update={"evidence": evidence})


def find_answer(stores: ServedStores, evidence: str, name: str | None = None) -> tuple[Store, RecordedAnswer]:
    """(store, recorded answer) of an id.

    Raises:
        BadInput: it is no id.
        UnknownName: none of the stores' labels files has it, or its store is not served.
    """
    if not evidence_pattern().fullmatch(evidence):
        raise BadInput(f"{evidence[:40]!r} is no evidence id; they look like ev-0123456789abcdef")
    asked = list(stores.by_name.values()) if name is None else [stores.pick(name)]
    of_another = False
    found: list[tuple[Store, RecordedAnswer]] = []
    for store in asked:
        recorded = recorded_answer(store.labels, evidence) if store.labels else None
        if recorded is not None and store.lineage in recorded.store.split(","):
            found.append((store, recorded))
        of_another |= recorded is not None
    if found:  # of several generations of a store the one that answered
        same = [one for one in found if one[0].fingerprint in one[1].fingerprint.split(",")]
        return (same or found)[0]
    why = "is of a store that is not served" if of_another else "is not on record"
    raise UnknownName(
        f"evidence {evidence} {why}; served: {', '.join(s.name for s in asked)}. Ask the question again to get its "
        "evidence, or name the labels file that has it with --labels. Answers about labels, notes and the queue are no "
        "evidence"
    )


def ask_again(stores: ServedStores, store: Store, recorded: RecordedAnswer, **changes: Any) -> Result:
    """The answer to a recorded call, now.

    Raises:
        BadInput: this version has no such operation or argument, or the call is refused now.
    """
    from saeinterp_mcp.operations import OPERATIONS  # which names this module

    operation = next((o for o in OPERATIONS if o.is_evidence and o.name == recorded.operation), None)
    if operation is None:
        raise BadInput(
            f"{recorded.evidence}: this version has no question {recorded.operation!r} about a store"
        )
    arguments = {**recorded.arguments, **changes}
    try:
        if operation.again is not None:
            return operation.again(store, recorded)
        if operation.asks_all_stores:
            lineages = recorded.store.split(",")
            about = ServedStores([s for s in stores.by_name.values() if s.lineage in lineages])
            one = None if arguments["store"] is None else store.name
            return operation.function(about, **{**arguments, "store": one})
        if operation.writes:  # to ask again is no new look at the held-out units
            store = Store(store.backend, store.name, LabelsInMemory())
        return operation.function(store, **arguments)
    except TypeError as error:
        raise BadInput(
            f"{recorded.evidence}: {recorded.operation} takes other arguments now: {error}"
        ) from error
    except SaeInterpError as error:
        raise BadInput(f"{recorded.evidence}: the call is refused now: {error}") from error


def whole_answer(stores: ServedStores, evidence: str) -> dict[str, Any]:
    """A recorded call and its answer now, with every row: nothing cut, all pages of a list."""
    store, recorded = find_answer(stores, evidence)
    pages = {"limit", "cursor"} <= recorded.arguments.keys()
    widest = {"limit": WIDEST, "cursor": None} if pages else {}
    body = ask_again(stores, store, recorded, **widest).model_dump(mode="json")
    rows = body.get("rows", [])
    while pages and body.get("next_cursor") and len(rows) < MAX_ROWS:
        body = ask_again(stores, store, recorded, limit=WIDEST, cursor=body["next_cursor"]).model_dump(
            mode="json"
        )
        rows = [*rows, *body["rows"]]
    call = {"operation": recorded.operation, "arguments": recorded.arguments, "made_at": recorded.made_at}
    whole = {**body, "rows": rows} if rows else body
    changed = recorded.fingerprint != fingerprint_of(stores, store, recorded)
    found: dict[str, Any] = {"evidence": evidence, "call": call, "store_changed": changed, "answer": whole}
    shown: dict[str, Any] = visible_values(found)
    return shown


def fingerprint_of(stores: ServedStores, store: Store, recorded: RecordedAnswer) -> str:
    """Of the stores that a recorded call is about, as they are now."""
    if "," not in recorded.store:
        return store.fingerprint
    lineages = recorded.store.split(",")
    return ",".join(s.fingerprint for s in stores.by_name.values() if s.lineage in lineages)


def differences(then: Any, now: Any, at: str = "") -> list[dict[str, Any]]:
    """Where two JSON values differ: path, and both values where they are numbers."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [
            difference
            for key in sorted({*then, *now})
            for difference in differences(then.get(key), now.get(key), f"{at}.{key}" if at else key)
        ]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        return [
            d for i, pair in enumerate(zip(then, now, strict=True)) for d in differences(*pair, f"{at}[{i}]")
        ]
    if then == now:
        return []
    return [{"field": at, "then": _plain(then), "now": _plain(now)}]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return f"{len(value)} entries"
    if isinstance(value, str):
        return "(text)"  # may quote the corpus
    return value if value is None or isinstance(value, bool | int | float) else "(object)"
