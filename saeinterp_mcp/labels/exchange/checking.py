"""What a label or note from a file has to satisfy before it may come in."""

import json
import re
from typing import Any

from pydantic import BaseModel, ValidationError

from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.frozen import describe_validation
from saeinterp_mcp.labels.evidence import evidence_pattern
from saeinterp_mcp.labels.exchange.records import BadLine
from saeinterp_mcp.labels.exchange.versions import VERSION
from saeinterp_mcp.labels.heldout import judged_test
from saeinterp_mcp.labels.records import MAX_EXPLANATION, MAX_NOTES, MAX_TEXT, HeldoutTest, Label, Note

LABEL_ID, NOTE_ID = re.compile(r"lb-[0-9a-f]{12}"), re.compile(r"nt-[0-9a-f]{12}")
MADE_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
JUDGED_METHODS = ("detection", "fuzzing", "simulation", "embedding", "surprisal", "intruder")
MAX_REVISION = 1_000_000
MAX_CITED = 200
"""Evidence ids, linked notes, or earlier versions of one record."""
_LENGTHS = {
    "text": MAX_TEXT,
    "explanation": MAX_EXPLANATION,
    "notes": MAX_NOTES,
    "rule": 4_000,
    "category": 60,
    "author": 100,
    "source": 200,
    "reason": 500,
}
_RANGES = {
    "importance": (0.0, 100.0),
    "confidence": (0.0, 1.0),
    "stability": (-1.0, 1.0),
    "window": (1, 512),
    "cost": (0.0, 1e6),
}


def made(kind: type[BaseModel], values: dict[str, Any], where: str) -> Any:
    """A record of our own kind from JSON values, nothing coerced.

    Raises:
        BadLine: the values do not fit.
    """
    try:
        return kind.model_validate(values, strict=True)
    except ValidationError as error:
        raise BadLine(where, describe_validation(error)) from error


def check_label(label: Label, n_features: int, where: str) -> None:
    """Refuse a label that `label_save` would not have kept.

    Raises:
        BadLine: what is wrong with it.
    """
    _check_common(label, n_features, where)
    if label.label_id and not LABEL_ID.fullmatch(label.label_id):
        raise BadLine(where, f"label_id {label.label_id[:40]!r} does not look like lb-0123456789ab")
    for name, (low, high) in _RANGES.items():
        value = getattr(label, name)
        if value is not None and not low <= value <= high:
            raise BadLine(where, f"{name} is {value}, expected {low:g} to {high:g}")
    for name, longest in _LENGTHS.items():
        value = getattr(label, name)
        if value is not None and len(value) > longest:
            raise BadLine(where, f"{name} has {len(value)} characters, at most {longest} are kept")


def check_note(note: Note, n_features: int, where: str) -> None:
    """Refuse a note that `note_save` would not have kept.

    Raises:
        BadLine: what is wrong with it.
    """
    _check_common(note, n_features, where)
    if not NOTE_ID.fullmatch(note.note_id):
        raise BadLine(where, f"note_id {note.note_id[:40]!r} does not look like nt-0123456789ab")
    if note.status is not None and note.kind != "hypothesis":
        raise BadLine(where, f"only a hypothesis has a status, this is a note of kind {note.kind}")
    if note.status is None and note.kind == "hypothesis":
        raise BadLine(where, "a hypothesis has a status")
    for name, longest in (("text", MAX_NOTES), ("author", _LENGTHS["author"])):
        value = getattr(note, name)
        if value is not None and len(value) > longest:
            raise BadLine(where, f"{name} has {len(value)} characters, at most {longest} are kept")
    for name in ("supports", "refutes"):
        named = getattr(note, name)
        if wrong := [one for one in named if not NOTE_ID.fullmatch(one) or one == note.note_id]:
            raise BadLine(where, f"{name} names {wrong[0][:40]!r}, which is no other note")
        if len(named) > MAX_CITED:
            raise BadLine(where, f"{name} names {len(named)} notes, at most {MAX_CITED} are kept")


def check_test(test: HeldoutTest, n_features: int, where: str) -> None:
    """Refuse a held-out test whose numbers cannot be, or that is not of the rule it names.

    Raises:
        BadLine: what is wrong with it.
    """
    check_feature(test.feature, n_features, where)
    check_evidence((test.evidence,), where)
    least = -1 if test.method == "simulation" else 0
    for name in ("score", "low", "high", "floor"):
        value = getattr(test, name)
        if value is not None and not least <= value <= 1:
            raise BadLine(where, f"{name} is {value}, expected {least} to 1")
    for name, count in (("n", test.n), ("n_failed", test.n_failed), ("n_seen", test.n_seen)):
        if count is not None and not 0 <= count < 1 << 53:
            raise BadLine(where, f"{name} is {count}, expected a number of rows"[:200])
    for name, value in (
        ("auroc", test.auroc),
        ("baseline", test.baseline),
        ("low_without_near_misses", test.low_without_near_misses),
    ):
        if value is not None and not least <= value <= 1:
            raise BadLine(where, f"{name} is {value}, expected {least} to 1")
    if test.cost is not None and not 0 <= test.cost <= 1e6:
        raise BadLine(where, f"cost is {test.cost}, expected US dollars")
    numbers = (test.low, test.score, test.high)
    if None not in numbers and list(numbers) != sorted(numbers, key=float):  # type: ignore[arg-type]
        raise BadLine(where, "low, score and high are {}, {} and {}".format(*numbers))
    if test.method != "rule":
        _check_judged(test, where)
    elif test.text is not None or test.test != fingerprint([test.rule, test.where, test.scope]):
        raise BadLine(where, "test is not the fingerprint of its rule, where and scope")


def _check_judged(test: HeldoutTest, where: str) -> None:
    """Refuse a test by a judge that is not of the words, judge and trials it names."""
    if test.method not in JUDGED_METHODS:
        raise BadLine(where, f"method is {test.method[:40]!r}, expected rule or {', '.join(JUDGED_METHODS)}")
    try:
        asked = json.loads(test.arguments)
        named = judged_test(test.method, test.text or "", test.judge or "", asked["n"], asked["seed"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadLine(where, "arguments do not tell n and seed") from error
    if test.where is not None or test.test != named:
        raise BadLine(where, "test is not the fingerprint of its method, text, judge, n and seed")


def check_evidence(cited: tuple[str, ...], where: str) -> None:
    """Refuse what is no evidence id."""
    pattern = evidence_pattern()
    if wrong := [one for one in cited if not pattern.fullmatch(one)]:
        raise BadLine(where, f"{wrong[0][:40]!r} is no evidence id")


def check_versions(versions: tuple[str, ...], where: str) -> None:
    """Refuse what is no list of versions."""
    if wrong := [v for v in versions if not isinstance(v, str) or not VERSION.fullmatch(v)]:
        raise BadLine(where, f"{str(wrong[0])[:40]!r} is no version; they look like 2-0123456789ab")
    if len(versions) > MAX_CITED + 1:
        raise BadLine(where, f"it names {len(versions)} versions, at most {MAX_CITED} are kept")


def check_feature(feature: int, n_features: int, where: str) -> None:
    """Refuse a feature that the store does not have."""
    if not 0 <= feature < n_features:
        raise BadLine(where, f"feature {feature} is not in the store, which has 0 to {n_features - 1}")


def check_words(values: dict[str, Any], where: str) -> None:
    """Refuse text that cannot be stored: half a surrogate pair."""
    for name, value in values.items():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and not text.isascii():
                try:
                    text.encode("utf-8")
                except UnicodeEncodeError as error:
                    raise BadLine(
                        where, f"{name} holds half a surrogate pair, which is no character"
                    ) from error


def _check_common(record: Label | Note, n_features: int, where: str) -> None:
    check_feature(record.feature, n_features, where)
    check_words(record.model_dump(), where)
    if not record.text.strip():
        raise BadLine(where, "text is empty")
    if not 1 <= record.revision <= MAX_REVISION:
        raise BadLine(where, f"revision is {record.revision}, expected 1 to {MAX_REVISION}")
    if record.made_at and not MADE_AT.fullmatch(record.made_at):
        raise BadLine(
            where, f"made_at is {record.made_at[:40]!r}, expected a time such as 2026-01-31T12:00:00Z"
        )
    check_evidence(record.evidence, where)
    if len(record.evidence) > MAX_CITED:
        raise BadLine(where, f"it cites {len(record.evidence)} answers, at most {MAX_CITED} are kept")
