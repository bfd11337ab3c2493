"""Labels as answers show them, and the arguments that operations on labels share."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from saeinterp_mcp.analysis.text import visible
from saeinterp_mcp.labels.records import MAX_NOTES, AuthorKind, Label, Score
from saeinterp_mcp.operations.base import Result

Author = Annotated[str | None, Field(max_length=100, description="Who says so")]
AuthorKindArgument = Annotated[
    AuthorKind | None, Field(description="Default human at the shell, agent over MCP")
]
LabelId = Annotated[str | None, Field(max_length=40, description="Which label")]
EvidenceIds = Annotated[list[str] | None, Field(max_length=50, description="Ids of answers it rests on")]
Notes = Annotated[str | None, Field(max_length=MAX_NOTES, description="Remarks")]
Reason = Annotated[str | None, Field(max_length=500, description="Why")]
Query = Annotated[str | None, Field(max_length=300, description="Words to find")]


class LabelFields(BaseModel):
    """What answers tell of a label: stored strings with control and invisible characters spelled out."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    feature: int
    label_id: str
    revision: int
    text: str
    explanation: str | None
    """The claim in a sentence or two; judges read text and explanation."""
    rule: str | None
    scope: str | None
    window: int | None
    category: str | None
    status: str
    importance: float | None
    """Percentile in the store, 0 to 100: objective."""
    confidence: float | None
    """Of the author, 0 to 1: subjective."""
    stability: float | None
    scores: list[dict[str, Any]] = []
    """Held-out tests of this very text or rule."""
    notes: str | None
    author: str | None
    author_kind: str
    source: str | None
    cost: float | None
    """US dollars paid for writing it."""
    retired: bool
    reason: str | None
    made_at: str


class LabelRecord(LabelFields):
    """A label in a list."""

    evidence: list[str]
    history: list[dict[str, Any]] | None = None


class OneLabel(Result, LabelFields):
    """A label as it now stands. `evidence` names this answer; `evidence_ids` are those the label cites."""

    evidence_ids: list[str]


def label_record(label: Label, scores: tuple[Score, ...] = ()) -> LabelRecord:
    """A label for an answer."""
    shown = {name: shown_text(value) for name, value in label.model_dump().items()}
    return LabelRecord(
        **{**shown, "evidence": list(label.evidence)}, scores=[score_record(s) for s in scores]
    )


def label_fields(label: Label, scores: tuple[Score, ...]) -> dict[str, Any]:
    """The fields of `OneLabel` that are the label's."""
    values = label_record(label, scores).model_dump(exclude={"history", "evidence"})
    return {**values, "evidence_ids": list(label.evidence)}


def score_record(score: Score) -> dict[str, Any]:
    """A held-out test for an answer."""
    told = score.model_dump(exclude={"fingerprint", "min_n"})
    return {name: value for name, value in told.items() if value is not None}


def shown_text(value: Any) -> Any:
    """A stored string as it may be shown; its line breaks stay."""
    return "\n".join(visible(line) for line in value.split("\n")) if isinstance(value, str) else value
