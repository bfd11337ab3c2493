r"""Our own label files, made for review in git: `labels/<store>.jsonl`.

The first line says what it is: `{"format":"saeinterp-labels","version":1,"store":...,"lineage":...,"n_features":...}`.
Then comes a line for each label (its newest revision; retired ones too, so that a retirement can be merged), by
feature and id, then for each note, each held-out test of the features, and each answer that they cite (the call and
its summary, not the answer). A line that somebody edits is a new revision of the `version` it names. Fields have one
order, empty ones are left out, and what cannot be seen is spelled `\u202e`: the same content gives the same bytes,
and a reviewer sees all of it.
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.labels.evidence import TOLD, only_told
from saeinterp_mcp.labels.exchange.checking import (
    MADE_AT,
    check_evidence,
    check_label,
    check_note,
    check_test,
    check_versions,
    check_words,
    made,
)
from saeinterp_mcp.labels.exchange.files import lines_of, object_in
from saeinterp_mcp.labels.exchange.records import (
    BadLine,
    Incoming,
    IncomingAnswer,
    IncomingLabel,
    IncomingNote,
    IncomingTest,
    Options,
    Source,
    Target,
)
from saeinterp_mcp.labels.exchange.versions import all_taken, in_order, revision_in, version_of
from saeinterp_mcp.labels.records import HeldoutTest, Label, Note, RecordedAnswer
from saeinterp_mcp.labels.revisions import history_of, labels_of

if TYPE_CHECKING:
    import sqlite3

Basis = Literal["observed", "weights", "intervened", "judged"]
R = TypeVar("R", Label, Note)
FORMAT, VERSION = "saeinterp-labels", 1
MAX_VERSIONS = 200
"""Earlier versions that a line names, the last ones."""
NEWER = "A newer saeinterp wrote it: use that one."
_FIRST = ("feature", "label_id", "note_id", "revision", "version", "based_on")
_LISTS = ("evidence", "supports", "refutes")
_TOLD = ("store", "basis", "summary")
"""Of an answer itself; `store` is the name it was served under."""
_ANSWER_FIELDS = ("evidence", "operation", "arguments", "digest", "fingerprint", "made_at")


def write(target: Target, options: Options) -> Iterator[bytes]:
    """The lines of a store's labels file; all of one state of the database."""

    def look(connection: "sqlite3.Connection") -> list[bytes]:
        taken = all_taken(connection)
        cited: set[str] = set()
        labels = []
        for label in sorted(labels_of(connection, target.lineage, retired=True), key=_label_order):
            cited.update(label.evidence)
            earlier = (
                history_of(connection, target.lineage, label.label_id)[:-1] if label.revision > 1 else []
            )
            labels.append(_record_line("label", label, earlier, taken.get(label.label_id, [])))
        notes = _note_lines(connection, target.lineage, taken, cited)
        tests = _test_lines(connection, target.lineage, cited)
        answers = _answer_lines(connection, target.lineage, cited)
        options.said.append(
            f"{len(labels)} labels, {len(notes)} notes, {len(tests)} held-out tests and {len(answers)} recorded calls"
        )
        return [*labels, *notes, *tests, *answers]

    yield _line(
        {"format": FORMAT, "version": VERSION, "store": target.name, "lineage": target.lineage}
        | {"n_features": target.n_features}
    )
    nothing: list[bytes] = []
    yield from target.database.read(look, nothing)


def read_source(path: Path) -> Source:
    """What the first line says.

    Raises:
        BadInput: it is no such line.
        BadStore: of a newer version.
    """
    for where, line in lines_of(path):
        try:
            if isinstance(line, BadLine):
                raise line
            head = object_in(where, line)
        except BadLine as error:
            raise BadInput(f"{path}: {error}") from error
        if head.get("format") != FORMAT:
            break
        version, n_features = head.get("version"), head.get("n_features")
        if not isinstance(version, int) or version > VERSION:
            raise BadStore(path, f"{FORMAT} version {VERSION}", f"version {version!r}"[:40], NEWER)
        if not isinstance(n_features, int) or not isinstance(head.get("lineage"), str):
            break
        return Source(head["lineage"], str(head.get("store"))[:100], n_features)
    raise BadInput(
        f'{path} does not begin with a line {{"format":"{FORMAT}","version":{VERSION},"store":...,"lineage":...,'
        '"n_features":...}'
    )


def read(path: Path, target: Target, options: Options) -> Iterator[Incoming | BadLine]:
    """What the lines hold, after the first."""
    lines = lines_of(path)
    next(lines, None)
    for where, line in lines:
        try:
            if isinstance(line, BadLine):
                raise line
            yield _incoming(where, object_in(where, line), target.n_features)
        except BadLine as error:
            yield error


def _incoming(where: str, values: dict[str, Any], n_features: int) -> Incoming:
    kind = values.pop("record", None)
    if kind in ("label", "note"):
        based_on = _tuple(where, "based_on", values.pop("based_on", []))
        version = values.pop("version", None)
        check_versions(based_on if version is None else (*based_on, version), where)
        values |= {name: _tuple(where, name, values[name]) for name in _LISTS if name in values}
        if kind == "label":
            label = made(Label, values, where)
            if not label.label_id:
                raise BadLine(where, "label_id is empty")
            check_label(label, n_features, where)
            return IncomingLabel(where, *_edited_by_hand(label, based_on, version))
        note = made(Note, values, where)
        check_note(note, n_features, where)
        return IncomingNote(where, *_edited_by_hand(note, based_on, version))
    if kind == "test":
        made_at = values.pop("made_at", "")
        given = {"store": "", "where": None, "scope": None, **_no_numbers(), **values}
        test: HeldoutTest = made(HeldoutTest, given, where)
        _check_times_and_words(where, made_at, values)
        check_test(test, n_features, where)
        return IncomingTest(where, test, made_at)
    if kind == "answer":
        told = {name: values.pop(name, "") for name in _TOLD}
        bases = get_args(Basis)
        if told["basis"] not in bases or not all(isinstance(part, str) for part in told.values()):
            raise BadLine(
                where, f"an answer tells {', '.join(_TOLD)} as text, with basis {' or '.join(bases)}"
            )
        result = only_told(told["store"], told["basis"], told["summary"])
        answer: RecordedAnswer = made(RecordedAnswer, {"store": "", "result": result, **values}, where)
        _check_times_and_words(where, answer.made_at, {**values, **told})
        check_evidence((answer.evidence,), where)
        return IncomingAnswer(where, answer)
    raise BadLine(where, f"record is {str(kind)[:40]!r}, expected label, note, test or answer")


def _edited_by_hand(record: R, based_on: tuple[str, ...], version: str | None) -> tuple[R, tuple[str, ...]]:
    """(record, versions it goes on from): a line that was changed in the file goes on from the version it names."""
    if version is None or version == version_of(record):
        return record, based_on
    changes = {"revision": max(record.revision, revision_in(version) + 1), "made_at": ""}
    return record.model_copy(update=changes), (*based_on, version)


def _check_times_and_words(where: str, made_at: Any, values: dict[str, Any]) -> None:
    if not isinstance(made_at, str) or not MADE_AT.fullmatch(made_at):
        raise BadLine(
            where, f"made_at is {str(made_at)[:40]!r}, expected a time such as 2026-01-31T12:00:00Z"
        )
    check_words({**values, "arguments": json.dumps(values.get("arguments"), ensure_ascii=False)}, where)


def _no_numbers() -> dict[str, None]:
    return dict.fromkeys(("score", "low", "high", "floor"))


def _tuple(where: str, name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise BadLine(where, f"{name}: expected a list")
    return tuple(value)


def _label_order(label: Label) -> tuple[int, str]:
    return label.feature, label.label_id


def _note_lines(
    connection: "sqlite3.Connection", lineage: str, taken: Mapping[str, list[str]], cited: set[str]
) -> list[bytes]:
    from saeinterp_mcp.labels.notes import history_of as notes_history
    from saeinterp_mcp.labels.notes import notes_of

    lines = []
    for note in sorted(notes_of(connection, lineage), key=lambda note: (note.feature, note.note_id)):
        cited.update(note.evidence)
        earlier = notes_history(connection, lineage, note.note_id)[:-1] if note.revision > 1 else []
        lines.append(_record_line("note", note, earlier, taken.get(note.note_id, [])))
    return lines


def _record_line(kind: str, record: Label | Note, earlier: list[Any], taken: list[str]) -> bytes:
    version = version_of(record)
    based_on = [v for v in in_order([*map(version_of, earlier), *taken]) if v != version]
    values = {**record.model_dump(mode="json"), "version": version, "based_on": based_on[-MAX_VERSIONS:]}
    first = {name: values[name] for name in _FIRST if name in values}
    return _line({"record": kind, **first, **values})


def _test_lines(connection: "sqlite3.Connection", lineage: str, cited: set[str]) -> list[bytes]:
    names = [name for name in HeldoutTest.model_fields if name != "store"]
    columns = ", ".join(f'"{name}"' for name in [*names, "made_at"])
    ask = f"SELECT {columns} FROM heldout_tests WHERE store = ? ORDER BY feature, test, evidence"
    lines = []
    for row in connection.execute(ask, (lineage,)):
        values = dict(zip([*names, "made_at"], row, strict=True))
        cited.add(values["evidence"])
        lines.append(_line({"record": "test", "feature": values["feature"], **values}))
    return lines


def _answer_lines(connection: "sqlite3.Connection", lineage: str, cited: set[str]) -> list[bytes]:
    ask = f"SELECT {', '.join(_ANSWER_FIELDS)}, result FROM answers WHERE store = ? AND evidence = ?"
    lines = []
    for one in sorted(cited):
        for row in connection.execute(ask, (lineage, one)):
            values = dict(zip((*_ANSWER_FIELDS, "result"), row, strict=True))
            result = json.loads(zlib.decompress(values.pop("result")))
            values["arguments"] = json.loads(values["arguments"])
            told = {name: result[name] for name in _TOLD}
            told["summary"] = result.get(TOLD, told["summary"])
            lines.append(_line({"record": "answer", **values, **told}))
    return lines


def _line(values: Mapping[str, Any]) -> bytes:
    told = {
        name: value for name, value in values.items() if value not in (None, [], "") and value is not False
    }
    text = json.dumps(told, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return (_shown(text) + "\n").encode("utf-8")


def _shown(text: str) -> str:
    """The same JSON with characters that cannot be seen as escapes."""
    if text.isascii() and text.isprintable():
        return text
    from saeinterp_mcp.analysis.text import visible

    return "".join(c if c.isprintable() and (c.isascii() or visible(c) == c) else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
