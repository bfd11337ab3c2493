"""What the tests of label files share: a target without a store behind it, and imports and exports through bytes."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.labels.database import LabelDatabase, LabelsInMemory
from saeinterp_mcp.labels.exchange.exporting import pieces
from saeinterp_mcp.labels.exchange.formats import format_named
from saeinterp_mcp.labels.exchange.importing import Import
from saeinterp_mcp.labels.exchange.records import ImportReport, Options, Target
from saeinterp_mcp.labels.heldout import record_test
from saeinterp_mcp.labels.records import HeldoutTest, Label
from saeinterp_mcp.labels.revisions import labels_of, save_label

LINEAGE = "0123456789abcdef"
HEADER = (
    '{"format":"saeinterp-labels","version":1,"store":"demo","lineage":"0123456789abcdef","n_features":100}\n'
)
ANY_TEXT = st.text(max_size=40)
SOME_TEXT = ANY_TEXT.filter(str.strip)


def target(database: LabelDatabase | None = None, **changes: Any) -> Target:
    """Store `demo` of 100 features; rules are taken as they stand and read tokens at the position."""
    fields: dict[str, Any] = {
        "name": "demo",
        "lineage": LINEAGE,
        "n_features": 100,
        "database": database or LabelsInMemory(),
        "normal_rule": lambda label: (label, "at" if label.rule else None),
        "importance": lambda feature: float(feature),
        "check_call": check_call,
    }
    return Target(**{**fields, **changes})


def check_call(operation: str, arguments: Any) -> None:
    if operation not in ("family_sweep", "test_rule"):
        raise BadInput(f"{operation!r} is no operation that evidence comes from")


def asked(of: Target, work: Callable[[sqlite3.Connection], Any]) -> Any:
    return of.database.read(work, None)


def exported(of: Target, format_name: str = "jsonl", **options: Any) -> bytes:
    return b"".join(pieces(of, format_named(format_name), Options(**options)))


def imported(
    into: Target,
    content: bytes | str,
    folder: Path,
    format_name: str = "jsonl",
    name: str = "file",
    dry_run: bool = False,
    on_conflict: Any = "both",
    on_bad: Any = "stop",
    **options: Any,
) -> ImportReport:
    path = folder / name
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    chosen = format_named(format_name)
    told = Options(**options)
    run = Import(path, format_name, into, chosen.read_source(path), on_conflict, on_bad)
    return run.run(lambda: chosen.read(path, into, told), dry_run)


def saved(of: Target, feature: int = 7, label_id: str | None = None, **changes: Any) -> Label:
    return save_label(of.database, of.lineage, feature, changes, label_id)


def current(of: Target, retired: bool = True) -> list[Label]:
    found: list[Label] = []
    return of.database.read(lambda c: labels_of(c, of.lineage, retired=retired), found)


def texts(of: Target) -> list[str]:
    return sorted(label.text for label in current(of))


def heldout(of: Target, rule: str, low: float, feature: int = 7) -> None:
    """A held-out test of a rule, with a floor of 0.6, on record."""
    record_test(
        of.database,
        HeldoutTest(
            store=of.lineage,
            feature=feature,
            test=fingerprint([rule, None, "at"]),
            rule=rule,
            where=None,
            scope="at",
            evidence="ev-00000000000000aa",
            arguments="{}",
            result="r",
            score=0.9,
            low=low,
            high=0.95,
            floor=0.6,
            n=500,
        ),
    )


LABEL = {
    "record": "label",
    "feature": 7,
    "label_id": "lb-0123456789ab",
    "revision": 2,
    "based_on": ["1-aaaaaaaaaaaa"],
    "text": "fires on loops",
    "status": "draft",
    "author_kind": "human",
    "made_at": "2026-01-31T12:00:00Z",
}
NOTE = {
    "record": "note",
    "feature": 7,
    "note_id": "nt-0123456789ab",
    "revision": 1,
    "kind": "hypothesis",
    "text": "loops?",
    "status": "testing",
    "author_kind": "agent",
    "made_at": "2026-01-31T12:00:00Z",
}
TEST = {
    "record": "test",
    "feature": 7,
    "test": fingerprint(["token:for", None, "at"]),
    "method": "rule",
    "rule": "token:for",
    "scope": "at",
    "evidence": "ev-0123456789abcdef",
    "arguments": "{}",
    "result": "0123456789abcdef",
    "score": 0.9,
    "low": 0.8,
    "high": 0.95,
    "floor": 0.6,
    "n": 500,
    "made_at": "2026-01-31T12:00:00Z",
}
ANSWER = {
    "record": "answer",
    "evidence": "ev-0123456789abcdef",
    "operation": "test_rule",
    "arguments": {"feature": 7, "rule": "token:for"},
    "digest": "0123456789abcdef",
    "fingerprint": "fedcba9876543210",
    "made_at": "2026-01-31T12:00:00Z",
    "store": "demo",
    "basis": "observed",
    "summary": "It holds.",
}


def line(values: dict[str, Any], **changes: Any) -> str:
    return json.dumps({k: v for k, v in {**values, **changes}.items() if v is not ...}) + "\n"
