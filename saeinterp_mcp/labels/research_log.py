"""The notes, held-out tests and labels of a feature as a document, in the order in which they came about."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from saeinterp_mcp.labels.database import LabelDatabase
from saeinterp_mcp.labels.evidence import recorded_answer
from saeinterp_mcp.labels.markdown import inline, quoted
from saeinterp_mcp.labels.notes import naming, revisions_of_feature
from saeinterp_mcp.labels.records import Label, Note
from saeinterp_mcp.labels.revisions import history_of, labels_of

if TYPE_CHECKING:
    import sqlite3

KINDS = {
    "hypothesis": "hypotheses",
    "prediction": "predictions",
    "observation": "observations",
    "pitfall": "pitfalls",
    "decision": "decisions",
}
HEAD = (
    "What is quoted was written by people, agents or imported files; all else comes from the labels file. `ev-…` names "
    "an answer on record: `saeinterp evidence replay` asks it again."
)


class HeldoutLook(NamedTuple):
    """A held-out test as the log tells it."""

    method: str
    rule: str
    text: str | None
    scope: str | None
    where: str | None
    score: float | None
    low: float | None
    high: float | None
    floor: float | None
    evidence: str
    made_at: str


class Found(NamedTuple):
    """All that is on record about a feature, in the order of writing."""

    notes: list[Note]
    """Every revision."""
    labels: list[list[Label]]
    """Every revision, by label."""
    tests: list[HeldoutLook]
    named_by: dict[str, list[Note]]
    """Hypothesis or prediction to the notes that name it."""


class Entry(NamedTuple):
    """One section of the log; `evidence` are the ids it cites."""

    made_at: str
    title: str
    lines: list[str]
    evidence: Sequence[str] = ()


def research_log(database: LabelDatabase, store_name: str, lineage: str, feature: int) -> str:
    """A feature's research log in Markdown: how its hypotheses stand, then everything in the order of writing.

    Args:
        database: where notes and labels are.
        store_name: for the title.
        lineage: of the store.
        feature: which.
    """
    found = database.read(lambda c: _find(c, lineage, feature), Found([], [], [], {}))
    lines = [f"# Research log: feature {feature} of {inline(store_name)}", "", HEAD, "", _counted(found)]
    newest = {note.note_id: note for note in found.notes}
    if hypotheses := [note for note in newest.values() if note.kind == "hypothesis"]:
        lines += ["", "## Hypotheses", ""]
        lines += [line for note in hypotheses for line in _standing(note, found.named_by[note.note_id])]
    entries = [
        *_of_notes(found),
        *_of_tests(found),
        *(e for label in found.labels for e in _of_label(label, found)),
    ]
    if entries:
        lines += ["", "## In the order of writing"]
    for entry in sorted(
        entries, key=lambda one: one.made_at
    ):  # a stable sort: notes of one second keep their order
        lines += ["", f"### {entry.title}", "", *entry.lines]
        if entry.evidence:
            lines += ["", *(_cited(database, evidence) for evidence in entry.evidence)]
    return "\n".join(lines) + "\n"


def _find(connection: "sqlite3.Connection", lineage: str, feature: int) -> Found:
    notes = revisions_of_feature(connection, lineage, feature)
    # an imported note may begin with a later revision
    asked = list(dict.fromkeys(n.note_id for n in notes if n.kind in ("hypothesis", "prediction")))
    labels = labels_of(connection, lineage, [feature], retired=True)
    histories = [history_of(connection, lineage, label.label_id) for label in labels]
    columns = ", ".join(f'"{name}"' for name in HeldoutLook._fields)
    ask = f"SELECT {columns} FROM heldout_tests WHERE store = ? AND feature = ? ORDER BY id"
    tests = [HeldoutLook(*row) for row in connection.execute(ask, (lineage, feature))]
    return Found(notes, histories, tests, naming(connection, lineage, asked))


def _counted(found: Found) -> str:
    kinds = Counter[str]({note.note_id: note.kind for note in found.notes}.values())
    parts = [_number(kinds[kind], kind, many) for kind, many in KINDS.items()]
    n_labels = sum(not revisions[-1].retired for revisions in found.labels)
    n_tests = len({(test.method, test.rule, test.text, test.where, test.scope) for test in found.tests})
    claims = _number(n_tests, "claim", "different claims")
    return f"{', '.join(parts)}; {_number(n_labels, 'label', 'labels')} in use; {claims} tried on the held-out units."


def _number(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def _standing(note: Note, others: Sequence[Note]) -> Iterator[str]:
    """A hypothesis, its status, and what speaks for and against it now."""
    yield f"- `{note.note_id}` **{note.status}**: {inline(note.text)}"
    said = [one for one in others if one.kind != "prediction"]
    for word, ids in (
        ("predicted", [one for one in others if one.kind == "prediction"]),
        ("for", [one for one in said if note.note_id in one.supports]),
        ("against", [one for one in said if note.note_id in one.refutes]),
    ):
        yield f"  - {word}: {', '.join(f'{one.kind} `{one.note_id}`' for one in ids) or 'nothing'}"


def _of_notes(found: Found) -> Iterator[Entry]:
    before = dict[str, Note]()
    for i, note in enumerate(found.notes):
        old = before.get(note.note_id)
        before[note.note_id] = note
        title = f"{note.kind.capitalize()} `{note.note_id}`" + (f", revision {note.revision}" if old else "")
        lines = [_by_whom(note) + _changes(old, note)]
        if note.kind == "prediction" and (old is None or old.text != note.text):
            lines += _too_late(note, found.notes[:i])
        if old is None or old.text != note.text:
            lines += ["", *quoted(note.text)]
        cited = [one for one in note.evidence if old is None or one not in old.evidence]
        yield Entry(note.made_at, title, lines, cited)


def _changes(old: Note | None, note: Note) -> str:
    """Status and links, as far as they are new."""
    parts = []
    if note.status and (old is None or old.status != note.status):
        parts.append(f"status {note.status}" if old is None else f"status {old.status} → {note.status}")
    for word, was, now in (
        ("supports", old.supports if old else (), note.supports),
        ("refutes", old.refutes if old else (), note.refutes),
    ):
        if now != was:
            parts.append(f"{word} {', '.join(f'`{one}`' for one in now) or 'nothing any more'}")
    return f": {'; '.join(parts)}." if parts else "."


def _too_late(note: Note, earlier: Iterable[Note]) -> list[str]:
    """A prediction whose words are younger than an observation about it foretold nothing."""
    seen = [
        one.note_id
        for one in earlier
        if one.kind == "observation" and note.note_id in (*one.supports, *one.refutes)
    ]
    ids = ", ".join(f"`{one}`" for one in dict.fromkeys(seen))
    return ["", f"**Worded after the observation {ids}: it foretold nothing.**"] if seen else []


def _of_tests(found: Found) -> Iterator[Entry]:
    for test in found.tests:
        claim = f"rule {inline(test.rule)}" if test.method == "rule" else f"text {inline(test.text or '')}"
        scope = f", scope {inline(test.scope)}" if test.scope else ""
        where = f", only where {inline(test.where)}" if test.where else ""
        line = f"*{test.made_at}*: {claim}{scope}{where}: {_score(test)}."
        yield Entry(test.made_at, "Held-out test", [line], [test.evidence])


def _of_label(revisions: Sequence[Label], found: Found) -> Iterator[Entry]:
    old: Label | None = None
    for label in revisions:
        title = f"Label `{label.label_id}`, revision {label.revision}, {label.status}"
        if old and label.retired != old.retired:
            what = "retired" if label.retired else "restored"
            reason = ["", *quoted(label.reason)] if label.reason else []
            yield Entry(label.made_at, f"{title}: {what}", [_by_whom(label) + ".", *reason])
        else:
            cited = [one for one in label.evidence if old is None or one not in old.evidence]
            yield Entry(label.made_at, title, [_by_whom(label) + ".", *_label_lines(label, found)], cited)
        old = label


def _label_lines(label: Label, found: Found) -> Iterator[str]:
    yield ""
    yield from quoted(label.text)
    facts = [
        f"{name} {inline(str(value))}" for name in ("category", "source") if (value := getattr(label, name))
    ]
    numbers = ("importance", "confidence", "stability")
    facts += [f"{name} {value:.3g}" for name in numbers if (value := getattr(label, name)) is not None]
    if facts:
        yield from ("", f"{'; '.join(facts)}.")
    if label.rule:
        scope = f" (scope {label.scope}{f' {label.window}' if label.window else ''})" if label.scope else ""
        yield from ("", f"Rule{scope}: {inline(label.rule)}")
    for test in found.tests:
        same = test.rule == label.rule if test.method == "rule" else test.text == label.text
        if same and not test.where and test.made_at <= label.made_at:
            scope = f", scope {inline(test.scope)}" if test.scope else ""
            yield from ("", f"Held-out {inline(test.method)}{scope}: {_score(test)}.")
    if label.notes:
        yield from ("", "Remarks:", "", *quoted(label.notes))


def _score(test: HeldoutLook) -> str:
    if test.score is None:
        return "too little data for a score"
    spread = "" if test.low is None or test.high is None else f" [{test.low:.3g}, {test.high:.3g}]"
    floor = "" if test.floor is None else f" against a floor of {test.floor:.3g}"
    return f"balanced accuracy {test.score:.3g}{spread}{floor}"


def _by_whom(record: Note | Label) -> str:
    author = f"{inline(record.author)} ({record.author_kind})" if record.author else record.author_kind
    return f"*{record.made_at}*, by {author}"


def _cited(database: LabelDatabase, evidence: str) -> str:
    answer = recorded_answer(database, evidence)
    if answer is None:
        return f"- evidence {inline(evidence)}: not on record here"
    return f"- evidence `{evidence}`, {answer.operation}: {inline(str(answer.result.get('summary', '')))}"
