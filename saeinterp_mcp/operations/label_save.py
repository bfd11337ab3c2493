"""What does a feature mean, in somebody's judgement? Written down with its reasons."""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import rounded
from saeinterp_mcp.labels.evidence import check_cited
from saeinterp_mcp.labels.gate import OF_LIKENESS, supported_by
from saeinterp_mcp.labels.heldout import n_tests, scores_of
from saeinterp_mcp.labels.records import CATEGORIES, MAX_EXPLANATION, MAX_TEXT, Label, Score, Status
from saeinterp_mcp.labels.revisions import find_label, labels_of, save_label
from saeinterp_mcp.operations.base import Feature, digits, percent, sealed
from saeinterp_mcp.operations.features_search import importance_percentile
from saeinterp_mcp.operations.known_names import checked_rule
from saeinterp_mcp.operations.label_records import (
    Author,
    AuthorKindArgument,
    EvidenceIds,
    LabelId,
    Notes,
    OneLabel,
    label_fields,
)
from saeinterp_mcp.operations.slicing import Scope, Scoping
from saeinterp_mcp.store.base import Store

if TYPE_CHECKING:
    import sqlite3

OUTDATED = (
    "it is called supported, but its held-out test is of an earlier generation of the store: test it again"
)
FEW_ROWS = 20
"""`min_n` of a test that nobody changed."""
MANY_TESTS = 5
"""Held-out tests of a feature from which on the best of them looks better than it is."""


def label_save(
    store: Store,
    feature: Feature,
    text: Annotated[
        str | None, Field(max_length=MAX_TEXT, description="When it fires, testable by a stranger")
    ] = None,
    rule: Annotated[str | None, Field(description="The same as a rule; '' takes it away")] = None,
    explanation: Annotated[
        str | None,
        Field(max_length=MAX_EXPLANATION, description="Where text is only a name; '' takes it away"),
    ] = None,
    label_id: LabelId = None,
    category: Annotated[
        str | None, Field(max_length=60, description="e.g. tactical (sets), syntactic (text), auxiliary")
    ] = None,
    status: Annotated[Status | None, Field(description="Default draft")] = None,
    importance: Annotated[
        float | None, Field(ge=0, le=100, description="Percentile; default the store's")
    ] = None,
    confidence: Annotated[float | None, Field(ge=0, le=1, description="Yours, 0 to 1")] = None,
    stability: Annotated[float | None, Field(ge=-1, le=1, description="As measured")] = None,
    evidence: EvidenceIds = None,
    notes: Notes = None,
    author: Author = None,
    author_kind: AuthorKindArgument = None,
    source: Annotated[str | None, Field(max_length=200, description="Where it comes from")] = None,
    scope: Annotated[Scope | None, Field(description="How the rule reads tokens; default at")] = None,
    window: Annotated[int | None, Field(ge=1, le=512, description="Positions that before looks back")] = None,
    expected_revision: Annotated[
        int | None, Field(ge=1, description="Refuse if somebody revised it since")
    ] = None,
) -> OneLabel:
    """Save a label: a new, competing one, or with label_id the next revision (what is left out stays).

    Status supported needs a held-out test_rule of this very rule and scope, or label_score, above its floor.
    """
    store.check_feature(feature)
    if label_id is None and not (text and text.strip()):
        raise BadInput("a new label needs text: one sentence that says when the feature fires")
    if text is not None and not text.strip():
        raise BadInput("text is empty; leave it out to keep what the label says")
    if expected_revision is not None and label_id is None:
        raise BadInput("expected_revision goes with label_id: a new label has no revision yet")
    given = {
        "text": " ".join(text.split()) if text else None,
        "explanation": None if explanation is None else " ".join(explanation.split()),
        "category": category,
        "status": status,
        "importance": importance,
        "confidence": confidence,
        "stability": stability,
        "notes": notes,
        "author": author,
        "author_kind": author_kind,
        "source": source,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if explanation is not None:
        changes["explanation"] = changes["explanation"] or None
    changes |= _rule_changes(store, rule, scope, window, label_id)
    if label_id is None:
        changes.setdefault("importance", rounded(importance_percentile(store, feature)))
    if status == "supported" and store.manifest.coverage != "full":
        raise BadInput(
            f"store {store.name!r} is sampled: no rule can be tested on it, so no label of it can be called supported"
        )
    old_claim: str | None = None
    warnings: list[str] = []

    def check(connection: "sqlite3.Connection", label: Label) -> Label:
        nonlocal old_claim
        old_claim = find_label(connection, store.lineage, label_id)[1].claim if label_id else None
        cited = label.evidence if evidence is None else check_cited(connection, store.lineage, evidence)
        if label.status == "supported":
            scope = rule_scope(store, label)
            passed = supported_by(connection, store.lineage, label, scope, store.fingerprint)
            cited = tuple(dict.fromkeys([*cited, passed.evidence]))
        others = labels_of(connection, store.lineage, [feature])
        if same := [o.label_id for o in others if o.claim == label.claim and o.label_id != label.label_id]:
            warnings.append(f"label {same[0]} of this feature says the same; to revise it give label_id")
        return label.model_copy(update={"evidence": cited})

    if evidence is not None:
        changes["evidence"] = tuple(dict.fromkeys(evidence))
    database = store.need_labels
    label = save_label(database, store.lineage, feature, changes, label_id, expected_revision, check)
    if category and (close := get_close_matches(category, CATEGORIES[store.manifest.kind], 1, cutoff=0.75)):
        warnings += [f"category {close[0]!r} is the usual word"] if close[0] != category else []
    scores = scores_of_label(store, label)
    warnings += _doubts(store, label, scores, old_claim)
    result = OneLabel(
        operation="label_save",
        store=store.name,
        basis="judged",
        summary=f"Label {label.label_id} of feature {feature} is at revision {label.revision}, status {label.status}"
        f"{_tested(scores)}.",
        warnings=warnings,
        **label_fields(label, scores),
    )
    return sealed(result, store, {"feature": feature, "label_id": label.label_id, "revision": label.revision})


def scores_of_label(store: Store, label: Label) -> tuple[Score, ...]:
    """Held-out tests of a label's very text or rule, oldest first."""
    scope = rule_scope(store, label)
    none: tuple[Score, ...] = ()
    return store.need_labels.read(lambda c: scores_of(c, store.lineage, label, scope), none)


def newest_test(store: Store, scores: tuple[Score, ...]) -> Score | None:
    """The last test with an interval that was made on the store as it is now."""
    found = [score for score in scores if score.is_of(store.fingerprint) and score.low is not None]
    return found[-1] if found else None


def _doubts(store: Store, label: Label, scores: tuple[Score, ...], old_claim: str | None) -> list[str]:
    """What a reader of a supported label must know."""
    if label.status != "supported":
        return []
    of_now = [score for score in scores if score.method not in OF_LIKENESS] or list(scores)
    last = newest_test(store, tuple(of_now))
    if last is None:
        return [OUTDATED]
    found = []
    if last.min_n is not None and last.min_n < FEW_ROWS:
        found.append(
            f"its test took min_n {last.min_n}: an interval of fewer than {FEW_ROWS} rows is not to be trusted"
        )
    if last.judge is not None and last.judge in ("self", label.author):
        found.append("who wrote it judged it too: nobody else has read the trials")
    if last.method in OF_LIKENESS:
        found.append(f"its test ({last.method}) compares words, nobody judged where it fires")
    if last.n_seen:
        found.append(
            f"{last.n_seen} of the {last.n} trials of its test are of units that an agent had been shown before: of "
            "what was learnt from them it is no test"
        )
    if last.precision is not None and last.precision < 0.5:
        found.append(
            f"of the held-out rows where the rule holds only {percent(last.precision)} fire: balanced accuracy "
            "forgives false alarms of a rare feature. Is the label wider than the feature?"
        )
    n_looks = n_tests(store.need_labels, store.lineage, label.feature) or 0
    if n_looks > MANY_TESTS:
        found.append(
            f"{n_looks} different claims about this feature were tried on the held-out units: the best of so many "
            "looks better than it is"
        )
    if old_claim is not None and old_claim != label.claim and last.method == "rule":
        found.append("the text is new, what was tested is the rule: they must say the same")
    return found


def rule_scope(store: Store, label: Label) -> str | None:
    """How a label's rule reads tokens, in the words of the record of held-out tests."""
    if label.rule is None:
        return None
    scoping = Scoping(label.scope or "at", label.window or Scoping().window)  # type: ignore[arg-type]
    return scoping.in_words(store, checked_rule(label.rule, store).needs().uses_tokens)


def _rule_changes(
    store: Store, rule: str | None, scope: str | None, window: int | None, label_id: str | None
) -> dict[str, Any]:
    """The rule in its normal form, and how it reads tokens."""
    changes: dict[str, Any] = {}
    if window is not None and scope is None:
        raise BadInput("window goes with scope before; give the scope too")
    if rule is not None and not rule.strip():
        return {"rule": None, "scope": None, "window": None}
    if rule is not None:
        checked = checked_rule(rule, store)
        if checked.needs().uses_feature:
            raise BadInput(
                f"rule {rule!r} reads the feature's own activation; say where it fires in tokens, families and groups"
            )
        changes["rule"] = checked.canonical()
        if store.is_sequence:
            changes |= {"scope": scope or "at", "window": window if scope == "before" else None}
    elif (scope is not None or window is not None) and label_id is None:
        raise BadInput("scope and window say how a rule reads tokens; give the rule too")
    elif scope is not None:
        changes |= {"scope": scope, "window": window if scope == "before" else None}
    if scope is not None:
        Scoping(scope).check(store)  # type: ignore[arg-type]
    if scope == "before" and window is None:
        changes["window"] = Scoping().window
    return changes


def _tested(scores: tuple[Score, ...]) -> str:
    if not scores:
        return ", not tested on held-out units"
    last = scores[-1]
    if last.low is None:
        return ", tested on too few held-out units"
    return (
        f", held-out {last.method} {digits(last.score)} [{digits(last.low)}, {digits(last.high)}] "
        f"against a floor of {digits(last.floor)}"
    )
