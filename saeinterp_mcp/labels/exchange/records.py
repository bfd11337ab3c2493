"""What goes between label files and the database: lines read, the store they are for, and the report of an import."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.labels.database import LabelDatabase
from saeinterp_mcp.labels.records import HeldoutTest, Label, Note, RecordedAnswer

OnConflict = Literal["both", "keep", "theirs"]
OnBad = Literal["stop", "skip"]
MAX_QUOTED = 600


def shown(text: str) -> str:
    """What a message may quote of a file: nothing that acts on a terminal or hides, and not too much of it."""
    from saeinterp_mcp.analysis.text import visible

    told = visible(text)
    return told if len(told) <= MAX_QUOTED else f"{told[:MAX_QUOTED]}…"


class BadLine(Exception):
    """Part of a file that cannot be taken in: where it is, and why."""

    def __init__(self, where: str, why: str) -> None:
        self.where, self.why = shown(where), shown(why)
        super().__init__(f"{self.where}: {self.why}")


@dataclass(frozen=True)
class Target:
    """The store whose labels go in or out."""

    name: str
    lineage: str
    n_features: int
    database: LabelDatabase
    normal_rule: Callable[[Label], tuple[Label, str | None]]
    """A label with its rule in its normal form, and how that reads tokens, in the words of the held-out tests.

    Raises SaeInterpError where the store cannot read the rule."""
    importance: Callable[[int], float | None]
    """The store's own importance of a feature, for files that have none: a percentile."""
    check_call: Callable[[str, Mapping[str, Any]], None]
    """Raises SaeInterpError unless it is a call (operation, arguments) whose answer can be evidence: what a file brings
    may be asked again later, so it must not be able to have anything else run."""
    fingerprint: str | None = None
    """Of the store as it is now; None takes tests of any generation."""


@dataclass(frozen=True)
class IncomingLabel:
    """A label that a file brings."""

    where: str
    """In the file: `line 12`, `node 3_17_5`."""
    label: Label
    """Of a format without ids: with an empty `label_id`."""
    based_on: tuple[str, ...] = ()
    """Its earlier versions, oldest first, where the format tells them."""
    edit_of: int | None = None
    """The revision that somebody changed outside (a spreadsheet), where the format tells it."""


@dataclass(frozen=True)
class IncomingNote:
    """A note that a file brings."""

    where: str
    note: Note
    based_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class IncomingTest:
    """A held-out test that a file brings; its `store` is the lineage the file is of."""

    where: str
    test: HeldoutTest
    made_at: str


@dataclass(frozen=True)
class IncomingAnswer:
    """The call behind an evidence id, with the answer's digest and summary, not the answer."""

    where: str
    answer: RecordedAnswer


Incoming = IncomingLabel | IncomingNote | IncomingTest | IncomingAnswer


@dataclass(frozen=True)
class Source:
    """What a file says about itself."""

    lineage: str | None = None
    """Of the store it was exported from; None where the format does not tell."""
    store: str | None = None
    n_features: int | None = None


@dataclass
class Options:
    """What a format has to be told."""

    model_id: str | None = None
    """Neuronpedia's name of the model; the seed's model_type."""
    layer: str | None = None
    """Neuronpedia's source (`12-gemmascope-res-16k`), or the layer of a circuit-tracer graph."""
    graph: Path | None = None
    """The circuit-tracer graph to fill."""
    said: list[str] = field(default_factory=list)
    """What a writer or reader has to tell beside its result."""


class Counts(Frozen):
    """How many records of a file fared how."""

    added: int = 0
    revised: int = 0
    """A newer revision was appended."""
    unchanged: int = 0
    """Already here, or ours is newer."""
    retired: int = 0
    """Of `revised`: those that took a label out of use."""


class Conflict(Frozen):
    """A label or note that was changed here and there."""

    id: str
    feature: int
    where: str
    ours: dict[str, Any]
    theirs: dict[str, Any]
    result: str
    """What was done."""


class Demoted(Frozen):
    """A label that said `supported` and came in as a draft."""

    label_id: str
    feature: int
    where: str
    why: str


class Skipped(Frozen):
    """A line that was left out."""

    where: str
    why: str


class ImportReport(Frozen):
    """What an import did, or would do."""

    file: str
    format: str
    store: str
    labels_file: str
    dry_run: bool
    labels: Counts
    notes: Counts
    n_tests: int
    """Held-out tests that were not on record."""
    n_answers: int
    """Answers that were not on record."""
    n_conflicts: int
    n_demoted: int
    n_skipped: int
    conflicts: tuple[Conflict, ...]
    """The first of them, as of the lists below."""
    demoted: tuple[Demoted, ...]
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...]
