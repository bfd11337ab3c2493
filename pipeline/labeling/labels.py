"""Labels of features: one from a language model, one from the words that go with firing, and why there is none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.labeling.asking import Answer, LabelModel, ask_model
from pipeline.labeling.examples import FeatureExamples
from pipeline.progress import Reporter
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.base import Store

SEED = 0


class FeatureLabel(Frozen):
    """An entry of `feature_labels.json`; `label` repeats the language model's, or else the search label."""

    feature_index: int
    score: float
    """The caller's own number; no measure of the label."""
    label_llm: str | None
    label_search: str | None
    label: str | None
    num_examples: int
    label_by: Literal["llm", "search"] | None
    """Whose `label` is."""
    explanation: str | None
    """What the language model says beside its label."""
    confidence: float | None
    """Of the language model, 0 to 1; no test has been made."""
    usd: float | None
    """What the language model cost; None where nothing was asked or the price is unknown."""
    reason: str | None
    """Why a label is null; None where there are both."""


class Labelled(Frozen):
    """All labels, and what made them."""

    labels: tuple[FeatureLabel, ...]
    provenance: dict[str, Any]


def label_features(
    store: Store,
    records: Sequence[FeatureExamples],
    model: LabelModel | None,
    vocabulary: Path | str | None,
    reporter: Reporter,
) -> Labelled:
    """One label for each record, in their order; all of them from the explain split alone."""
    features = [record.feature_id for record in records]
    searched = {feature: _searched(store, feature, vocabulary) for feature in features}
    asked = ask_model(store, features, model, reporter)
    return Labelled(
        labels=tuple(
            _label(record, searched[record.feature_id], asked.answers[record.feature_id])
            for record in records
        ),
        provenance={
            "label_llm": asked.provenance,
            "label_search": {
                "vocabulary": None if vocabulary is None else Path(vocabulary).name,
                "seed": SEED,
            },
        },
    )


def _searched(store: Store, feature: int, vocabulary: Path | str | None) -> tuple[str | None, str | None]:
    """The search label, or None and why."""
    from saeinterp_mcp.excerpts.search_label import search_label

    try:
        found = search_label(store, feature, vocabulary, seed=SEED)
    except NotInStore as error:
        return None, str(error)
    return found.text, found.reason


def _label(record: FeatureExamples, searched: tuple[str | None, str | None], answer: Answer) -> FeatureLabel:
    by_search, why_not = searched
    label = answer.label or by_search
    reasons = [f"label_llm: {answer.reason}"] if answer.reason else []
    reasons += [f"label_search: {why_not}"] if why_not else []
    return FeatureLabel(
        feature_index=record.feature_id,
        score=record.score,
        label_llm=answer.label,
        label_search=by_search,
        label=label,
        num_examples=len(record.examples),
        label_by=None if label is None else "llm" if answer.label else "search",
        explanation=answer.explanation,
        confidence=answer.confidence,
        usd=answer.usd,
        reason=record.reason or "; ".join(reasons) or None,
    )
