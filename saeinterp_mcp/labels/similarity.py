"""Labels by meaning: which features' labels say something like this one, or like a question.

Directions of texts come from an embedder and are kept in the labels file, so that each text is embedded once. Between
two features with several labels the closest pair counts, and so it does in the random pairs they are compared with.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.analysis.ranges import expand_ranges
from saeinterp_mcp.analysis.sampling import random_pairs
from saeinterp_mcp.clients.embedding import Embedder, Vectors
from saeinterp_mcp.errors import BadInput, NotInStore
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.labels.database import LabelDatabase

if TYPE_CHECKING:
    import sqlite3

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MIN_FEATURES = 20
"""Labelled features from which on random pairs say something."""
N_PAIRS = 10_000
"""Random pairs of features; all pairs where there are no more."""
NEW_AT_ONCE = 400
"""Texts embedded in one call: 2 to 4 s on two quiet cores."""
KEPT_AT_ONCE = 256
"""Texts embedded between two writes: what is done is kept when a call is broken off."""
ASKED_AT_ONCE = 500
"""Texts looked up in one statement."""
PAIRS_AT_ONCE = 4_096
DIGITS = 6
"""Cosines are rounded before they are ranked or compared: float32 directions carry no more."""


class NearLabel(Frozen):
    """A feature and the one of its labels that comes closest."""

    feature: int
    label_id: str | None
    """None of a stored explanation."""
    text: str
    status: str
    cosine: float
    random_percentile: float | None
    """Share of random pairs of features, in percent, whose labels have a lower cosine."""


class NearestLabels(Frozen):
    """Features by how close their labels come, closest first."""

    found: tuple[NearLabel, ...]
    n_features: int
    """Features that were compared with."""
    random_99: float | None
    """Cosine that 99 % of random pairs stay under."""
    reasons: tuple[str, ...]
    """What is missing, and why."""


class Said(NamedTuple):
    """What a feature's label, or a stored explanation of it, says."""

    feature: int
    label_id: str | None
    """None of a stored explanation."""
    text: str
    status: str
    claim: str
    """Text and explanation: what is compared."""


def nearest_labels(
    database: LabelDatabase | None,
    lineage: str,
    embedder: Embedder,
    query_text: str | None = None,
    feature: int | None = None,
    limit: int | None = None,
    stored: "tuple[Sequence[Said], Vectors] | None" = None,
) -> NearestLabels:
    """Features whose labels mean something like a text, or like the labels of a feature.

    Labels that are retired or refuted are left out.

    Args:
        database: of the labels; None is one without any.
        lineage: of the store.
        embedder: gives texts their directions; for labels already seen it is not asked.
        query_text: what to compare with, or else
        feature: the feature whose labels to compare with; it is not among the found.
        limit: how many features to give; None is all.
        stored: explanations that are no labels, and (n, d) their directions by the same embedder.

    Raises:
        NotInStore: the feature has no label.
        BadInput, Unavailable: what the embedder cannot do.
    """
    assert (query_text is None) != (feature is None), "one of the two is asked about"
    said = _labels_in_use(database, lineage)
    known: dict[str, Vectors] = {}
    if stored is not None:
        own = {(one.feature, one.claim) for one in said}
        known = {one.claim: vector for one, vector in zip(*stored, strict=True)}
        said += [one for one in stored[0] if (one.feature, one.claim) not in own]
    if feature is not None and not any(one.feature == feature for one in said):
        raise NotInStore(
            f"feature {feature} has no label to compare (retired and refuted ones do not count); give it one with "
            "label_save, or ask by coactivation"
        )
    # the labels asked about first: without their directions there is no answer
    first = sorted(said, key=lambda one: one.feature != feature)
    texts = [text for text in dict.fromkeys(one.claim for one in first) if text not in known]
    found_for, reasons = _directions(database, embedder, texts)
    directions = {**known, **found_for}
    said = [one for one in said if one.claim in directions]
    others = [one for one in said if one.feature != feature]
    if not others:
        return NearestLabels(found=(), n_features=0, random_99=None, reasons=tuple(reasons))
    mine = (
        embedder.embed([query_text])
        if query_text is not None
        else _matrix([one for one in said if one.feature == feature], directions)
    )
    scores = _closest(_matrix(others, directions), mine)
    best = _best_of_features(others, scores)
    baseline = _random_scores(said, _matrix(said, directions))
    if feature is not None and baseline is None:
        reasons.append(f"random_percentile needs {MIN_FEATURES} labelled features")
    found = tuple(
        NearLabel(
            feature=others[i].feature,
            label_id=others[i].label_id,
            text=others[i].text,
            status=others[i].status,
            cosine=float(scores[i]),
            random_percentile=_percentile(baseline, float(scores[i])),
        )
        for i in best[:limit]
    )
    top = None if baseline is None else float(np.quantile(baseline, 0.99))
    return NearestLabels(found=found, n_features=len(best), random_99=top, reasons=tuple(reasons))


def directions_of(database: LabelDatabase | None, embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """(n, d) directions of texts in their order; the file, where there is one, is looked into first and keeps the new.

    Raises:
        BadInput, Unavailable: what the embedder cannot do.
    """
    distinct = list(dict.fromkeys(texts))
    known = _kept(database, embedder.name, distinct) if database else {}
    for start in range(0, len(new := [text for text in distinct if text not in known]), KEPT_AT_ONCE):
        part = new[start : start + KEPT_AT_ONCE]
        vectors = dict(zip(part, embedder.embed(part), strict=True))
        known |= vectors
        if database:
            with contextlib.suppress(BadInput):  # a file that can only be read still answers
                _keep(database, embedder.name, vectors)
    return np.stack([known[text] for text in texts])


def _labels_in_use(database: LabelDatabase | None, lineage: str) -> list[Said]:
    """Newest revisions that are neither retired nor refuted, by feature."""
    ask = (
        "SELECT l.feature, l.label_id, r.text, r.status, coalesce(r.text || ': ' || r.explanation, r.text) "
        "FROM labels l JOIN label_revisions r ON r.id = l.current "
        "WHERE l.store = ? AND NOT r.retired AND r.status != 'refuted' ORDER BY l.feature, l.id"
    )

    def look(connection: "sqlite3.Connection") -> list[Said]:
        return [Said(*row) for row in connection.execute(ask, (lineage,))]

    return database.read(look, []) if database else []


def _directions(
    database: LabelDatabase | None, embedder: Embedder, texts: Sequence[str]
) -> tuple[Mapping[str, Vectors], list[str]]:
    """Text to its direction, those in the file and up to NEW_AT_ONCE new ones; and what is missing."""
    if database is None or not texts:
        return {}, []
    known = _kept(database, embedder.name, texts)
    new = [text for text in texts if text not in known]
    reasons: list[str] = []
    for start in range(0, min(len(new), NEW_AT_ONCE), KEPT_AT_ONCE):
        part = new[start : min(start + KEPT_AT_ONCE, NEW_AT_ONCE)]
        vectors = dict(zip(part, embedder.embed(part), strict=True))
        known |= vectors
        try:
            _keep(database, embedder.name, vectors)
        except BadInput:  # a file that can only be read still answers
            reasons = ["the labels file cannot be written, so texts are embedded anew each time"]
    if (left := len(new) - NEW_AT_ONCE) > 0:
        reasons.append(f"{left} labels are not compared yet: {NEW_AT_ONCE} are prepared at a time; ask again")
    return known, reasons


def _kept(database: LabelDatabase, model: str, texts: Sequence[str]) -> dict[str, Vectors]:
    hashes = {_hash(text): text for text in texts}
    wanted = sorted(hashes)

    def look(connection: "sqlite3.Connection") -> dict[str, Vectors]:
        found: dict[str, Vectors] = {}
        for start in range(0, len(wanted), ASKED_AT_ONCE):
            batch = wanted[start : start + ASKED_AT_ONCE]
            slots = ", ".join("?" * len(batch))
            ask = f"SELECT text_hash, vector FROM embeddings WHERE model = ? AND text_hash IN ({slots})"
            for key, blob in connection.execute(ask, (model, *batch)):
                found[hashes[key]] = np.frombuffer(blob, "<f4")
        return found

    return database.read(look, {})


def _keep(database: LabelDatabase, model: str, vectors: Mapping[str, Vectors]) -> None:
    rows = [(model, _hash(text), vector.astype("<f4").tobytes()) for text, vector in vectors.items()]
    insert = "INSERT OR IGNORE INTO embeddings (model, text_hash, vector) VALUES (?, ?, ?)"
    database.write(lambda connection: connection.executemany(insert, rows) and None)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _matrix(said: Sequence[Said], directions: Mapping[str, Vectors]) -> Vectors:
    return np.stack([directions[one.claim] for one in said])


def _closest(vectors: Vectors, mine: Vectors) -> Floats:
    """(n,) largest cosine of each direction with any of mine, in double precision, so that no order of sums shows."""
    cosines = vectors.astype(np.float64) @ mine.astype(np.float64).T
    return np.asarray(np.round(cosines.max(axis=1), DIGITS).clip(-1, 1))


def _best_of_features(said: Sequence[Said], scores: Floats) -> list[int]:
    """Indices of each feature's closest label, closest first; the lower feature, the older label first among equals."""
    best: dict[int, int] = {}
    for i, one in enumerate(said):
        if one.feature not in best or scores[i] > scores[best[one.feature]]:
            best[one.feature] = i
    return sorted(best.values(), key=lambda i: (-scores[i], said[i].feature))


def _random_scores(said: Sequence[Said], vectors: Vectors) -> Floats | None:
    """Ascending cosines of random pairs of features, each that of the closest pair of their labels."""
    _, starts, counts = np.unique([one.feature for one in said], return_index=True, return_counts=True)
    n = len(starts)
    if n < MIN_FEATURES:
        return None
    if n * (n - 1) // 2 <= N_PAIRS:
        first, second = np.triu_indices(n, 1)
    else:
        every = random_pairs(n, 0, "labels")
        step = len(every[0]) // N_PAIRS
        first, second = (one[::step] for one in every)
    # a pair of features is so many pairs of labels
    sizes = counts[first] * counts[second]
    pair = np.repeat(np.arange(len(first)), sizes)
    nth = expand_ranges(np.zeros(len(sizes), np.int64), sizes)
    left = starts[first][pair] + nth // counts[second][pair]
    right = starts[second][pair] + nth % counts[second][pair]
    scores = np.empty(len(pair))
    for at in range(0, len(pair), PAIRS_AT_ONCE):
        part = slice(at, at + PAIRS_AT_ONCE)
        a, b = (vectors[side[part]].astype(np.float64) for side in (left, right))
        scores[part] = np.einsum("ij,ij->i", a, b)
    closest = np.maximum.reduceat(scores, np.cumsum(sizes) - sizes)
    return np.asarray(np.sort(np.round(closest, DIGITS)))


def _percentile(baseline: Floats | None, score: float) -> float | None:
    if baseline is None:
        return None
    return 100 * float(np.searchsorted(baseline, score, side="left")) / len(baseline)
