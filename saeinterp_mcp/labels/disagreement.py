"""Labels of one feature that cannot all be right.

Two labels that both stand disagree as far as their words differ (1 - Jaccard). One that is supported and one that is
refuted disagree as far as their words agree: the same claim was found right and wrong. Other pairs with a refuted one
do not: a refuted label beside the one that replaced it is how an investigation ends.
"""

import re
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from saeinterp_mcp.labels.queue import done_features

if TYPE_CHECKING:
    import sqlite3

_WORD = re.compile(r"\w+")


class Stand(NamedTuple):
    """A label in use."""

    label_id: str
    status: str
    words: frozenset[str]


class Disagreement(NamedTuple):
    """The two labels of a feature that disagree most."""

    feature: int
    score: float
    """0 to 1."""
    n_labels: int
    """In use."""
    one: Stand
    other: Stand


def disagreements(connection: "sqlite3.Connection", lineage: str) -> list[Disagreement]:
    """Features whose labels in use disagree, most first; those done are left out until a label of theirs changes."""
    several = "SELECT feature FROM labels WHERE store = ? GROUP BY feature HAVING count(*) > 1"
    ask = (
        "SELECT l.feature, r.id, l.label_id, r.status, r.text FROM labels l JOIN label_revisions r ON r.id = l.current "
        f"WHERE l.store = ? AND NOT r.retired AND l.feature IN ({several}) ORDER BY l.feature, r.id"
    )
    stands = dict[int, list[Stand]]()
    newest = dict[int, int]()
    for feature, revision, label_id, status, text in connection.execute(ask, (lineage, lineage)):
        stands.setdefault(feature, []).append(Stand(label_id, status, words_of(text)))
        newest[feature] = revision
    judged = done_features(connection, lineage)
    found = [
        most_at_odds(feature, labels)
        for feature, labels in stands.items()
        if len(labels) > 1 and judged.get(feature, -1) < newest[feature]
    ]
    return sorted((one for one in found if one.score > 0), key=lambda one: (-one.score, one.feature))


def most_at_odds(feature: int, labels: list[Stand]) -> Disagreement:
    """The pair of a feature's labels that disagree most; of equals the first."""
    one, other = max(combinations(labels, 2), key=lambda pair: at_odds(*pair))
    return Disagreement(feature, at_odds(one, other), len(labels), one, other)


def at_odds(one: Stand, other: Stand) -> float:
    """How much two labels disagree, 0 to 1."""
    alike = len(one.words & other.words) / (len(one.words | other.words) or 1)
    if {one.status, other.status} == {"supported", "refuted"}:
        return alike
    return 0.0 if "refuted" in (one.status, other.status) else 1 - alike


def words_of(text: str) -> frozenset[str]:
    """The words of a label, in lower case; of one without any, the text itself."""
    return frozenset(_WORD.findall(text.casefold())) or frozenset([text])
