"""The nouns of the labels file: label, note, held-out test, recorded answer. No reading or writing."""

from typing import Any, Literal

from saeinterp_mcp.frozen import Frozen

Status = Literal["draft", "supported", "refuted", "unclear"]
AuthorKind = Literal["human", "agent", "import"]
NoteKind = Literal["hypothesis", "prediction", "observation", "decision", "pitfall"]
QueueState = Literal["added", "claimed", "skipped", "done"]
HypothesisStatus = Literal["proposed", "testing", "supported", "refuted", "superseded"]
CATEGORIES = {
    "set": ("mechanical", "tactical", "strategic", "auxiliary"),
    "sequence": ("token", "syntactic", "semantic", "positional", "output", "auxiliary"),
}
"""Suggested categories by kind of store; any other word will do. In sets mechanical: detects something low-level;
tactical: a combination; strategic: a purpose behind it. In sequences token: one token or its variants; output: clearer
in what it promotes than in what it fires on. auxiliary: weak, nothing found."""
MAX_TEXT, MAX_EXPLANATION, MAX_NOTES = 500, 1_000, 8_000
"""Characters of a label's text, of its explanation, and of its notes (or of a note's text)."""


def above_floor(low: float, without_near_misses: float | None, floor: float) -> bool:
    """Whether the low end of an interval is above the floor, and so is that without near misses.

    Near misses are chosen by their tokens: a claim about nothing can tell them from firing samples by the very tokens.
    Where too few trials are left without them, nothing is known.
    """
    return low > floor and without_near_misses is not None and without_near_misses > floor


class Score(Frozen):
    """A held-out test of a label's very text or rule."""

    method: str
    """rule, or that of a scorer."""
    score: float | None
    """Balanced accuracy; correlation of a simulation, AUROC of an embedding or of surprisal."""
    low: float | None
    high: float | None
    floor: float | None
    """What it has to beat."""
    precision: float | None
    """Share of the rows where it holds that fire."""
    recall: float | None
    n: int | None
    judge: str | None
    evidence: str
    made_at: str
    fingerprint: str | None = None
    """Of the store as it was, where that is known."""
    min_n: int | None = None
    """Rows that an estimate needed."""
    auroc: float | None = None
    n_failed: int | None = None
    """Trials that the judge did not answer."""
    cost: float | None = None
    """US dollars; None where nobody knows."""
    baseline: float | None = None
    """Score of the model-free search label on the same trials."""
    low_without_near_misses: float | None = None
    """`low` of a judged test without the near misses; None where too few trials are left."""
    n_seen: int | None = None
    """Trials of units that an agent was shown before the claim came on record."""

    @property
    def beats_floor(self) -> bool:
        """Whether the low end of its interval is above the floor, without near misses too."""
        if self.low is None or self.floor is None:
            return False
        without = self.low if self.method == "rule" else self.low_without_near_misses
        return above_floor(self.low, without, self.floor)

    def is_of(self, fingerprint: str | None) -> bool:
        """Whether the test was made on the store as it is now."""
        return fingerprint is None or self.fingerprint in (None, fingerprint)


class Label(Frozen):
    """One revision of a label."""

    label_id: str
    feature: int
    revision: int
    """From 1."""
    text: str
    explanation: str | None = None
    """The claim in a sentence or two, where the text is only a name for it."""
    rule: str | None = None
    """The label as a rule, in its normal form."""
    scope: str | None = None
    """How the rule reads tokens (sequence stores)."""
    window: int | None = None
    category: str | None = None
    status: Status = "draft"
    importance: float | None = None
    """Percentile among the store's features, 0 to 100: objective."""
    confidence: float | None = None
    """Of the author, 0 to 1: subjective."""
    stability: float | None = None
    """Split-half correlation, or whatever measure the source has, -1 to 1."""
    evidence: tuple[str, ...] = ()
    """Ids of answers."""
    notes: str | None = None
    author: str | None = None
    author_kind: AuthorKind = "agent"
    source: str | None = None
    """Where it comes from: a tool, a file, a run."""
    cost: float | None = None
    """US dollars that a language model was paid for writing it; None where nobody knows."""
    retired: bool = False
    reason: str | None = None
    """Why it was retired or restored."""
    made_at: str = ""
    """UTC."""

    @property
    def claim(self) -> str:
        """What whoever judges the label reads, and what a held-out test of its text is a test of."""
        return self.text if self.explanation is None else f"{self.text}: {self.explanation}"


class Note(Frozen):
    """One revision of a note."""

    note_id: str
    feature: int
    revision: int
    kind: NoteKind
    text: str
    status: HypothesisStatus | None = None
    """Of a hypothesis."""
    evidence: tuple[str, ...] = ()
    supports: tuple[str, ...] = ()
    """Ids of notes that this one speaks for."""
    refutes: tuple[str, ...] = ()
    """Ids of notes that this one speaks against."""
    author: str | None = None
    author_kind: AuthorKind = "agent"
    made_at: str = ""


class QueueEntry(Frozen):
    """How a feature stands in the queue of features to label."""

    feature: int
    state: QueueState
    priority: float | None
    """Of one that somebody put first; None of one that came by the computed order."""
    worker: str | None
    """Who changed it last."""
    reason: str | None
    changed_at: str


class HeldoutTest(Frozen):
    """One look at the held-out split."""

    store: str
    """Lineage."""
    fingerprint: str | None = None
    """Of the store as it was."""
    feature: int
    test: str
    """Fingerprint of what was tested, in its normal form: what makes two tests the same one."""
    method: str = "rule"
    rule: str = ""
    """In its normal form; empty for a test of a text."""
    text: str | None = None
    """The claim that a judge read; None of a test of a rule."""
    where: str | None
    scope: str | None
    evidence: str
    arguments: str
    """Of the call, as canonical JSON."""
    result: str
    """Fingerprint of the answer."""
    score: float | None
    """Balanced accuracy."""
    low: float | None
    high: float | None
    floor: float | None
    """The score it had to beat."""
    precision: float | None = None
    recall: float | None = None
    n: int | None = None
    judge: str | None = None
    auroc: float | None = None
    n_failed: int | None = None
    cost: float | None = None
    """US dollars that the judge was paid."""
    baseline: float | None = None
    """Score of the model-free search label on the same trials."""
    low_without_near_misses: float | None = None
    n_seen: int | None = None
    """Trials of units that an agent was shown before the claim came on record."""


class TrialSetRecord(Frozen):
    """A blinded trial set that was handed out: who has seen it cannot sit it again."""

    trial_set: str
    """`ts-...`"""
    store: str
    """Lineage."""
    fingerprint: str
    """Of the store as it was."""
    feature: int
    method: str
    claim: str
    """What is tested."""
    label_id: str | None
    n: int
    """Trials asked for."""
    seed: int
    shown: dict[str, tuple[int, ...]]
    """Trials that were handed out, to the samples they show (rows of the input, which an append does not change)."""
    graded: str | None = None
    """Evidence of the grade; None while no answers came."""
    made_at: str = ""


class RecordedAnswer(Frozen):
    """What was asked, and what came out."""

    evidence: str
    store: str
    """Lineage."""
    fingerprint: str
    """Of the store as it was; of several, where the question was about several."""
    operation: str
    arguments: dict[str, Any]
    """Of the whole call, defaults too, but for `store`."""
    digest: str
    """Fingerprint of the answer without its labels."""
    result: dict[str, Any]
    """The whole answer without its labels."""
    made_at: str = ""
