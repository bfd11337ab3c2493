"""Blinded trial sets: handed out, found again, and which trials show what an agent has seen before."""

from collections.abc import Sequence

import numpy as np

from saeinterp_mcp.errors import BadInput, UnknownName
from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.labels.records import TrialSetRecord
from saeinterp_mcp.labels.trial_sets import (
    find_set,
    graded_already,
    keep_set,
    known_since,
    sets_of,
    shown_in_answers,
)
from saeinterp_mcp.operations.score_records import Claim, Test
from saeinterp_mcp.scorers.base import Trial
from saeinterp_mcp.store.base import Store

MAX_SHOWN = 15_000
"""Characters of the trials of a set, so that an answer holds all of them; what is more is not handed out."""


def n_seen(
    store: Store, feature: int, claim: str, trials: Sequence[Trial], sitting: TrialSetRecord | None = None
) -> int:
    """Trials of which an agent has been shown units before; of those it is said that they are no longer held out.

    Whoever has read held-out samples of a feature and writes a claim then has learnt from them: what counts is what was
    handed out before the claim first came on record. Of an agent that sits the test itself (`sitting`) every earlier
    set counts, whatever its claim: from the grades of several sittings the answers could be worked out.
    """
    database = store.need_labels
    nothing: list[TrialSetRecord] = []
    since: str | None = None
    sets = database.read(lambda c: sets_of(c, store.lineage, feature), nothing)
    if sitting is not None:
        sets = [one for one in sets if one.trial_set != sitting.trial_set and one.made_at <= sitting.made_at]
    else:
        since = database.read(lambda c: known_since(c, store.lineage, feature, claim), None)
        sets = [one for one in sets if one.claim != claim and (since is None or one.made_at <= since)]
    # whoever sits a test may look things up until it is graded
    told: set[int] = database.read(lambda c: shown_in_answers(c, store.lineage, feature, since), set())
    sources = told | {source for one in sets for shown in one.shown.values() for source in shown}
    if not sources:
        return 0
    seen = _units_of(store, sources)
    return sum(not seen.isdisjoint(e.unit for e in t.excerpts) for t in trials)


def handed_out(store: Store, test: Test, claim: Claim) -> TrialSetRecord:
    """The record of a blinded set; the same call gives the same set for as long as it is open.

    Raises:
        BadInput: it was graded already.
    """
    lineage, database = store.lineage, store.need_labels
    said = claim.text or ""
    made_of = [store.fingerprint, lineage, test.feature, test.method, said, test.n, test.seed]
    name = f"ts-{fingerprint(made_of)}"
    known = database.read(lambda c: find_set(c, lineage, name), None)
    if known is None:
        shown = _that_fit(test.trials(store))
        record = TrialSetRecord(
            trial_set=name,
            store=lineage,
            fingerprint=store.fingerprint,
            feature=test.feature,
            method=test.method,
            claim=said,
            label_id=claim.label_id,
            n=test.n,
            seed=test.seed,
            shown={t.trial_id: tuple(int(store.source[e.sample]) for e in t.excerpts) for t in shown},
        )
        known = keep_set(database, record)
    return open_set(store, test.feature, known)


def found_set(store: Store, feature: int, trial_set: str) -> TrialSetRecord:
    """A set that may be graded now.

    Raises:
        UnknownName: it was not handed out.
        BadInput: it is of another feature or generation, or was graded already.
    """
    found = store.need_labels.read(lambda c: find_set(c, store.lineage, trial_set), None)
    if found is None:
        raise UnknownName(
            f"trial set {trial_set[:40]!r} is not on record; label_score with judge self hands one out, and names it "
            "in trial_set"
        )
    return open_set(store, feature, found)


def open_set(store: Store, feature: int, record: TrialSetRecord) -> TrialSetRecord:
    """The set, if it may be graded now.

    Raises:
        BadInput: it is of another feature or generation, or was graded already.
    """
    if record.feature != feature:
        raise BadInput(
            f"trial set {record.trial_set} is of feature {record.feature}, not of feature {feature}"
        )
    if record.graded is not None:
        raise BadInput(store.need_labels.read(lambda c: graded_already(c, record), "it was graded already"))
    if record.fingerprint != store.fingerprint:
        raise BadInput(
            f"trial set {record.trial_set} was handed out on an earlier generation of the store, whose samples are "
            "others now; ask for a new one with judge self"
        )
    return record


def _that_fit(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The first ones, as many as fit into an answer: their order tells nothing, so these are a fair part."""
    ends = np.cumsum([len(t.shown) for t in trials])
    return tuple(t for t, end in zip(trials, ends, strict=True) if end <= MAX_SHOWN)


def _units_of(store: Store, sources: set[int]) -> set[int]:
    samples = np.flatnonzero(np.isin(store.source, np.array(sorted(sources), np.int64)))
    return set(store.backend.column("samples/unit")[samples].tolist())
