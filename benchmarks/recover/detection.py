"""Does an operation find something: what is planted (power), or anything where nothing is (false findings)?"""

from typing import Any

import numpy as np

from benchmarks.recover.firing import FeatureLaw
from benchmarks.recover.truth import InGroup, Structure, Term
from saeinterp_mcp.operations.base import TableResult
from saeinterp_mcp.operations.family_heatmap import family_heatmap
from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.stability import stability
from saeinterp_mcp.operations.token_influence import token_influence
from saeinterp_mcp.operations.token_interactions import token_interactions
from saeinterp_mcp.store.base import Store

Q_CUT = 0.05
ALL = 200
SLOW_EVERY = 2
"""One null feature in so many is asked for interactions, which take longer than most."""
N_SHUFFLES = 99


def rows_of(found: TableResult) -> list[dict[str, Any]]:
    """The main table as dictionaries."""
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def smallest(found: TableResult, column: str = "q") -> float | None:
    """The smallest q of a table; None where nothing was tested."""
    return min((row[column] for row in rows_of(found) if row[column] is not None), default=None)


def null_questions(store: Store, feature: int, generator: np.random.Generator) -> dict[str, float | None]:
    """The smallest q of each table about a feature; None where nothing could be tested."""
    family = str(generator.choice(list(store.families)))
    tokens = token_influence(store, feature, limit=ALL)
    found = {
        "family_sweep (one family)": smallest(family_sweep(store, feature, family)),
        "group_sweep g": smallest(group_sweep(store, feature, "g", limit=ALL)),
        "group_sweep g.a1": smallest(group_sweep(store, feature, "g.a1", limit=ALL)),
        "token_influence token": smallest(tokens),
        "token_influence token, tail_q": smallest(tokens, "tail_q"),
        "token_influence family": smallest(token_influence(store, feature, "family", limit=ALL)),
    }
    if feature % SLOW_EVERY == 0:
        found["token_interactions (its own candidates)"] = smallest(
            token_interactions(store, feature, limit=ALL)
        )
    shuffled = stability(store, feature, method="shuffle_null", draws=N_SHUFFLES)
    found["stability shuffle_null (p)"] = shuffled.p
    overview = feature_overview(store, feature)
    # its tables hold only what has q < .05
    listed = bool(overview.enhancers.rows or overview.suppressors.rows)
    return {**found, "feature_overview enhancers, suppressors": 0.0 if listed else 1.0}


def power_questions(store: Store, feature: int, law: FeatureLaw) -> dict[str, bool]:
    """Whether each operation that should find what is planted in a feature does; signs count."""
    rule = law.structure
    assert rule is not None, "power is of planted features"
    sign = -1 if rule.polarity == "decreases" else 1
    found: dict[str, bool] = {}
    if rule.group is not None:
        return {"group_sweep": _group_found(store, feature, rule.group, None)}
    families = token_influence(store, feature, "family", limit=ALL)
    for term in rule.terms:
        found["family_sweep"] = found.get("family_sweep", True) and _family_found(store, feature, term, sign)
        found["token_influence family"] = found.get("token_influence family", True) and _listed(
            families, term.family, sign
        )
    if rule.combine != "one":
        found["family_heatmap interaction"] = _interacts(store, feature, rule)
        found["token_interactions"] = _together(store, feature, rule)
    if rule.gate is not None:
        found["group_sweep"] = _group_found(store, feature, rule.gate, rule.terms[0].rule)
    if rule.tail is not None:
        rows = {row["family"]: row for row in rows_of(families)}
        found["token_influence tail_q"] = _below(rows[rule.tail.family]["tail_q"])
    return found


def _below(q: float | None) -> bool:
    return q is not None and q < Q_CUT


def _family_found(store: Store, feature: int, term: Term, sign: int) -> bool:
    rows = [r for r in rows_of(family_sweep(store, feature, term.family)) if r["level"] >= term.threshold]
    return any(_below(r["q"]) and sign * r["effect"] > 0 for r in rows)


def _listed(found: TableResult, family: str, sign: int) -> bool:
    row = next(r for r in rows_of(found) if r["family"] == family)
    return _below(row["q"]) and row["role"] in (("enhancer", "tail_marker") if sign > 0 else ("suppressor",))


def _group_found(store: Store, feature: int, where: InGroup, given: str | None) -> bool:
    rows = rows_of(group_sweep(store, feature, where.by, where=given, limit=ALL))
    return any(r["value"] == where.value and _below(r["q"]) and r["effect"] > 0 for r in rows)


def _together(store: Store, feature: int, rule: Structure) -> bool:
    """q of the pair of terms, and the direction of their interaction."""
    items = [f"{term.family}>={term.threshold}" for term in rule.terms]
    row = rows_of(token_interactions(store, feature, families=items))[0]
    return _below(row["q"]) and (row["rate_interaction"] > 0) == (rule.combine == "and")


def _interacts(store: Store, feature: int, rule: Structure) -> bool:
    """In the cell of most rows at or above both thresholds: above 0 for and, below for or and xor."""
    a, b = rule.terms
    rows = rows_of(family_heatmap(store, feature, a.family, b.family))
    held = [r for r in rows if r["x"] >= a.threshold and r["y"] >= b.threshold]
    row = max(held, key=lambda r: int(r["n"]))
    if row["interaction_low"] is None:
        return False
    return bool(row["interaction_low"] > 0 if rule.combine == "and" else row["interaction_high"] < 0)
