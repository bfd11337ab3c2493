"""When a label may be called supported: a held-out test of this very text or rule, above its floor."""

from typing import TYPE_CHECKING

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.heldout import scores_of
from saeinterp_mcp.labels.records import Label, Score

if TYPE_CHECKING:
    import sqlite3

OF_LIKENESS = ("embedding", "surprisal")
"""Methods that measure how alike words are, and decide only where nobody judged and no rule was tested."""


def supported_by(
    connection: "sqlite3.Connection",
    lineage: str,
    label: Label,
    scope: str | None,
    fingerprint: str | None = None,
) -> Score:
    """The test that supports a label: the last one, if it is above its floor.

    Args:
        connection: of the labels file.
        lineage: of the store.
        label: as it is to be kept, its rule in its normal form.
        scope: how its rule reads tokens, in the words of `Scoping.in_words`.
        fingerprint: of the store as it is now; tests of earlier generations do not count.

    Raises:
        BadInput: there is none; the message says what is missing.
    """
    tests = scores_of(connection, lineage, label, scope)
    of_now = [test for test in tests if test.is_of(fingerprint)]
    measured = [test for test in of_now if test.low is not None]
    known = [test for test in measured if test.method not in OF_LIKENESS] or measured
    known = [test for test in known if not (_looked_up(test) and test.beats_floor)] or known
    if known and known[-1].beats_floor and not _looked_up(known[-1]):
        return known[-1]
    missing = _missing(connection, lineage, label, scope, tests, known or of_now)
    raise BadInput(
        f"this label cannot be called supported yet: {missing}. Save it with status draft or unclear meanwhile"
    )


def _looked_up(test: Score) -> bool:
    """Whether who sat the test had been shown units of its trials before: what it got right may be memory."""
    return test.judge == "self" and bool(test.n_seen)


def _missing(
    connection: "sqlite3.Connection",
    lineage: str,
    label: Label,
    scope: str | None,
    tests: tuple[Score, ...],
    of_now: list[Score],
) -> str:
    if tests and not of_now:
        return (
            f"its held-out test {tests[-1].evidence} was made on an earlier generation of the store. Test it again "
            "with test_rule (split heldout) or label_score"
        )
    if of_now:
        last = of_now[-1]
        if _looked_up(last) and last.beats_floor:
            return (
                f"whoever sat its held-out test {last.evidence} had been shown units of {last.n_seen} of its trials "
                "before (by other trial sets, or examples with split all). Have it judged by a model, or test a rule"
            )
        if last.low is None:
            return f"its held-out test {last.evidence} has no interval, because there is too little data"
        if last.floor is not None and last.low > last.floor:
            apart = last.low_without_near_misses
            rest = "too few trials are left" if apart is None else f"the low end is {apart:.3g}, not above"
            return (
                f"its held-out test {last.evidence} beats its floor only with the near misses, which are chosen by "
                f"their tokens: without them {rest}{'' if apart is None else f' {last.floor:.3g}'}"
            )
        return (
            f"its held-out test {last.evidence} gave {last.score:.3g} [{last.low:.3g}, {last.high:.3g}], whose low end "
            f"is not above the floor {last.floor:.3g}"
        )
    if label.rule is None:
        return (
            "it has no rule, and no held-out test of this very text is on record. Give it a rule and test that with "
            "test_rule (split heldout), or have its words judged with label_score"
        )
    ask = 'SELECT count(*), sum("where" IS NOT NULL), sum(scope IS NOT ?) FROM heldout_tests WHERE {} AND rule = ?'
    where = "store = ? AND feature = ?"
    n, sliced, other = connection.execute(
        ask.format(where), (scope, lineage, label.feature, label.rule)
    ).fetchone()
    if n and other == n:
        return f"its rule was tested with another scope; the label reads tokens with scope {scope}"
    if n and sliced:
        return "its rule was tested on a slice only (where); test it with test_rule on all held-out rows"
    n_other = connection.execute(
        f"SELECT count(DISTINCT test) FROM heldout_tests WHERE {where}", (lineage, label.feature)
    )
    others = int(n_other.fetchone()[0])
    return (
        "no held-out test of this very rule is on record"
        + (f" ({others} of other claims {'is' if others == 1 else 'are'})" if others else "")
        + ". Test it with test_rule (split heldout), same rule, scope and window"
    )
