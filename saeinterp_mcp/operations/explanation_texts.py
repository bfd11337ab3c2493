"""Which explanations of a feature there are: labels in use, those of the tables beside the store, or a new one."""

from typing import NamedTuple

from saeinterp_mcp.clients.embedding import Embedder, Vectors
from saeinterp_mcp.errors import BadInput, Unavailable
from saeinterp_mcp.labels import similarity
from saeinterp_mcp.labels.revisions import current_labels
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.validation.folder import Validation

GIVEN = "given"
"""Explainer of a text that the caller brings."""
MAX_CHARACTERS = 10_000
"""Of a stored explanation that are looked at, as of one that is given."""


class Said(NamedTuple):
    """An explanation of a feature."""

    explainer: str
    text: str
    source: str | None
    """Id of the label, or name of the data source."""
    status: str = "ok"
    """ok; unparsed, empty or runaway where an explainer failed."""
    in_tables: bool = False


def explanations_of(
    store: Store, validation: Validation | None, feature: int, explanation: str | None
) -> list[Said]:
    """The given one, else the stored ones: those of the tables, then labels in use; a text counts once.

    Refuted labels are left out.

    Raises:
        BadInput: the given one is blank.
    """
    if explanation is not None:
        if not explanation.strip():
            raise BadInput("explanation is blank; leave it out to match the stored ones")
        return [Said(GIVEN, explanation.strip(), None)]
    found = _of_tables(validation, feature) if validation is not None else []
    texts = {_words(one.text) for one in found}
    for label in current_labels(store.labels, store.lineage, [feature]):
        claim, text = _words(label.claim), _words(label.text)
        if label.status != "refuted" and claim not in texts and text not in texts:
            texts.add(claim)
            found.append(Said(label.author or label.author_kind, label.claim, label.label_id))
    return found


def _words(text: str) -> str:
    """Labels are one line: the same explanation may have other white space as a label."""
    return " ".join(text.split())


def _of_tables(validation: Validation, feature: int) -> list[Said]:
    if not validation.has("explanation_embeddings"):
        return []
    names = ("llm_explainer", "explanation_text", "data_source", "status")
    rows = validation.of_feature("explanation_embeddings", feature).select(names).iter_rows()
    found: dict[str, Said] = {}
    for explainer, text, source, status in rows:
        said = Said(str(explainer), (text or "")[:MAX_CHARACTERS], source, str(status), in_tables=True)
        found.setdefault(said.text if said.status == "ok" else f"{said.status} {explainer}", said)
    return list(found.values())


def stored_explanations(
    store: Store, embedder: Embedder
) -> tuple[tuple[list[similarity.Said], Vectors] | None, list[str]]:
    """Explanations of the tables beside the store with their directions, where this embedder made them; else why not.

    Nothing is said where there are no tables of explanations.
    """
    validation = store.validation
    if validation is None or not validation.has("explanation_embeddings"):
        return None, []
    record, vectors = validation.manifest.embedder, validation.vectors("explanations")
    if record is None or vectors is None:
        return None, ["stored explanations have no vectors, so labels alone are compared"]
    theirs = f"{record.name}:{record.fingerprint}"
    try:
        same = embedder.name == theirs
    except (BadInput, Unavailable):
        same = False
    if not same:
        return None, [f"stored explanations have vectors of {theirs}, so labels alone are compared"]
    import polars as pl

    ok = (pl.col("status") == "ok") & pl.col("vector").is_not_null()
    columns = ("feature_id", "explanation_text", "vector")
    rows = validation.table("explanation_embeddings").filter(ok).select(columns).collect()
    said = [similarity.Said(f, None, text, "stored", text) for f, text, _ in rows.iter_rows()]
    return (said, vectors[rows["vector"].to_numpy()]), []
