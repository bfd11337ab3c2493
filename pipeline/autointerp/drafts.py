"""Drafts: what an explainer said, as labels by an agent; a run finds its own again and writes none twice."""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.autointerp.config import ExplainConfig
from pipeline.autointerp.evidence import cited
from pipeline.explainers.base import Explanation, Granularity
from saeinterp_mcp.config import shipped_folder
from saeinterp_mcp.fingerprint import fingerprint, rounded
from saeinterp_mcp.labels.evidence import check_cited
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.labels.revisions import labels_of, save_label
from saeinterp_mcp.operations.feature_examples import feature_examples
from saeinterp_mcp.operations.features_search import importance_percentile
from saeinterp_mcp.store.base import Store

if TYPE_CHECKING:
    import sqlite3

SEARCH_AUTHOR: Final = "search label"
CATEGORY_OF: Final[dict[str, dict[Granularity, str]]] = {
    "sequence": {
        "token": "token", "phrase": "token", "syntax": "syntactic", "topic": "semantic", "position": "positional",
        "combination": "syntactic", "output": "output",
    },
    "set": {"token": "mechanical", "combination": "tactical"},
}  # fmt: skip
"""The usual category of labels for a granularity, by kind of store."""


class AlreadyThere(Exception):
    """Another run has written this draft meanwhile."""


def source_of(store: Store, config: ExplainConfig) -> str:
    """Names what wrote a draft: explainer, model, wording, seed and the store as it is now."""
    told = config.model_dump(mode="json", exclude={"vocabulary"})
    if config.vocabulary is not None:
        told["vocabulary"] = sha256(config.vocabulary.read_bytes()).hexdigest()
    return f"explain:{fingerprint([told, wording_hash('explain'), store.fingerprint])[:12]}"


def wording_hash(folder: str) -> str:
    """Of all texts of `prompts/FOLDER`."""
    files: list[Path] = sorted((shipped_folder("prompts") / folder).glob("*.md"))
    return fingerprint({file.name: file.read_text(encoding="utf-8") for file in files})


def drafts_of(store: Store, source: str) -> dict[int, Label]:
    """Feature to the label that this source wrote, retired ones too: what somebody took away is not written again."""

    def look(connection: "sqlite3.Connection") -> dict[int, Label]:
        labels = labels_of(connection, store.lineage, retired=True)
        return {label.feature: label for label in labels if label.source == source}

    return store.need_labels.read(look, {})


def save_draft(
    store: Store,
    feature: int,
    said: Explanation,
    source: str,
    author: str,
    cost: float | None,
    about: str,
) -> Label:
    """Keep what an explainer said: a draft, or an unclear label where it saw no pattern.

    Args:
        store: where.
        feature: about which.
        said: the explanation.
        source: of `source_of`.
        author: the model that said it.
        cost: dollars paid for it; None where nobody knows.
        about: how it was asked, in a few words.
    """
    evidence = cited(store, feature_examples, feature=feature)
    told = [about, f"granularity {said.granularity}, polarity {said.polarity}", *said.remarks]
    changes = {
        "text": said.label,
        "explanation": said.explanation or None,
        "status": "unclear" if said.is_unclear else "draft",
        "category": CATEGORY_OF[store.manifest.kind].get(said.granularity),
        "confidence": rounded(said.confidence),
        "importance": rounded(importance_percentile(store, feature)),
        "rule": said.rule,
        "scope": "at" if said.rule and store.is_sequence else None,
        "evidence": (evidence,),
        "notes": "; ".join(told) + ".",
        "author": author[:100],
        "author_kind": "agent",
        "source": source,
        "cost": cost,
    }

    def check(connection: "sqlite3.Connection", label: Label) -> Label:
        if source in {
            known.source for known in labels_of(connection, store.lineage, [feature], retired=True)
        }:
            raise AlreadyThere
        check_cited(connection, store.lineage, label.evidence)
        return label

    try:
        return save_label(store.need_labels, store.lineage, feature, changes, check=check)
    except AlreadyThere:  # by another run at the same time
        return drafts_of(store, source)[feature]
