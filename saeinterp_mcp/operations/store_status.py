"""What is served?"""

import re
from collections import Counter
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from saeinterp_mcp.analysis.text import shortened, visible, visible_token
from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.labels.revisions import current_labels, n_labels_of_others
from saeinterp_mcp.operations.base import Result, sealed
from saeinterp_mcp.operations.judging import ledger_of
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.served import ServedStores

RUNS_SHOWN, NAMES_SHOWN, NOTES_SHOWN = 5, 10, 3
NOTE_SHOWN = 200


class FamilyStatus(BaseModel):
    """A family in a store."""

    model_config = ConfigDict(extra="forbid")
    name: str
    n_levels: int
    encoding: str
    levels: list[int]
    """The first 12."""


class GroupStatus(BaseModel):
    """A group in a store."""

    model_config = ConfigDict(extra="forbid")
    name: str
    n_values: int
    primary: bool
    attributes: list[str]


class RunShown(BaseModel):
    """A run that asked language models about a store."""

    model_config = ConfigDict(extra="forbid")
    run: str
    kind: str
    """explain, score; label_score: all that this tool asked."""
    state: str
    n_done: int
    n_total: int | None
    calls: int
    tokens: int
    usd: float | None
    """None where a price is unknown."""
    started_at: str


class ValidationStatus(BaseModel):
    """The tables beside a store that set explanations against activations."""

    model_config = ConfigDict(extra="forbid")
    sae_id: str
    tables: list[str]
    n_features_explained: int
    explanations: dict[str, int]
    """By status: ok, or how it failed."""
    explainers: list[str]
    scorers: list[str]
    metrics: list[str]
    """That features_search takes beside its own."""
    embedder: str | None
    compat: bool
    """Whether numbers are as SAE_vis computed them."""
    warnings: list[str]
    notes: list[str]
    """What the run that made the tables told of; the first 3."""


class StoreStatus(BaseModel):
    """One store."""

    model_config = ConfigDict(extra="forbid")
    name: str
    kind: str
    n_features: int
    n_samples: int
    n_positions: int
    """Counted positions: the denominators; excluded ones (BOS) are not among them."""
    n_units: int
    n_activations: int | None
    """None where they stay in the files of `served_from`, uncounted."""
    n_explain_positions: int
    coverage: str
    excluded_positions: list[int]
    served_from: str | None
    """Folder of somebody's files that the activations are read from, slowly; None when the store holds them."""
    n_flagged: int | None
    """Features under the search floor, left out of default searches."""
    search_floor: dict[str, float]
    families: list[FamilyStatus]
    groups: list[GroupStatus]
    model: dict[str, Any] | None
    sae: dict[str, Any] | None
    dataset: dict[str, Any] | None
    checks: list[dict[str, Any]]
    """Load checks made when the store was built."""
    dropped: dict[str, int]
    labels: int = 0
    """Features with a label in use."""
    label_status: dict[str, int] = {}
    """Labels in use by status."""
    labels_of_others: int = 0
    """Labels in the same file that belong to another store or build."""
    runs: list[RunShown] = []
    """The newest 5."""
    fingerprint: str
    validation: ValidationStatus | None = None

    @model_serializer(mode="wrap")
    def _validation_only_where_there_is_one(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = serialize(self)
        if self.validation is None:
            body.pop("validation", None)
        return body


class StoreStatusResult(Result):
    """All served stores, or the one asked for."""

    stores: list[StoreStatus]


def store_status(
    stores: ServedStores, store: Annotated[str | None, Field(description="Only this store")] = None
) -> StoreStatusResult:
    """What is served: kinds, counts, families with their levels, groups, model, SAE, load checks. Start here."""
    chosen = list(stores.by_name.values()) if store is None else [stores.pick(store)]
    status = [_status(s) for s in chosen]
    warnings = [
        f"store {s.name}: load check{_named(c.get('name'))} failed{' (overridden)' if c.get('overridden') else ''}; "
        "its note is in checks"
        for s in chosen
        for c in s.manifest.checks
        if c.get("passed") is False
    ]
    warnings += [
        f"store {s.name} is served straight from {s.manifest.straight.format} files: each question about a feature "
        "reads and counts its activations anew, and there are no neighbours and no search over all features; "
        "`saeinterp-pipeline import` without --straight makes a store that answers in milliseconds"
        for s in chosen
        if s.manifest.straight is not None
    ]
    result = StoreStatusResult(
        operation="store_status",
        store=store,
        basis="observed",
        summary="; ".join(
            f"{s.name}: {s.n_features} features over {s.n_positions} "
            f"{'positions' if s.kind == 'sequence' else 'samples'} of {s.n_units} units ({s.coverage} coverage)"
            for s in status
        ),
        warnings=warnings,
        stores=status,
    )
    called = {"store": store, "of": fingerprint([s.fingerprint for s in chosen])}
    return _with_labels(sealed(result, None, called), chosen)


def _named(check: Any) -> str:
    """The name of a load check where it is a plain word: a store may come from anywhere."""
    return f" {check}" if isinstance(check, str) and re.fullmatch(r"[\w.-]{1,60}", check, re.ASCII) else ""


def _with_labels(result: StoreStatusResult, chosen: list[Store]) -> StoreStatusResult:
    """What labels and runs there are is no part of the evidence, which is about the stores."""
    stores = [
        s.model_copy(update={**_labels(store), "runs": _runs(store)})
        for s, store in zip(result.stores, chosen, strict=True)
    ]
    warnings = [
        f"store {s.name} has no labels, but its labels file holds {s.labels_of_others} of another store or build; "
        "`saeinterp label export` from that one and `saeinterp label import` bring them over"
        for s in stores
        if s.labels_of_others and not s.labels
    ]
    for i, store in enumerate(chosen):
        try:
            stores[i] = stores[i].model_copy(update={"validation": _validation(store)})
        except BadStore as error:
            warnings.append(f"store {store.name}: the tables beside it cannot be read: {visible(str(error))}")
    return result.model_copy(update={"stores": stores, "warnings": [*result.warnings, *warnings]})


def _status(store: Store) -> StoreStatus:
    from saeinterp_mcp.operations.features_search import below_floor

    m = store.manifest
    return StoreStatus(
        name=store.name,
        kind=m.kind,
        n_features=m.n_features,
        n_samples=m.n_samples,
        n_positions=m.n_rows,
        n_units=m.n_units,
        n_activations=None if m.straight else m.n_activations,
        n_explain_positions=m.n_explain["rows"],
        coverage=m.coverage,
        excluded_positions=list(m.excluded_positions),
        served_from=m.straight.folder if m.straight else None,
        n_flagged=None if m.straight else int(below_floor(store).sum()),
        search_floor=m.search_floor,
        families=[
            FamilyStatus(name=f.name, n_levels=len(f.levels), encoding=f.encoding, levels=list(f.levels[:12]))
            for f in m.families
        ],
        groups=[
            GroupStatus(name=g.name, n_values=len(g.values), primary=g.primary, attributes=list(g.attributes))
            for g in m.groups
        ],
        model=_without_files(m.model),
        sae=_without_files(m.sae),
        dataset=_without_files(m.dataset),
        checks=m.checks,
        dropped=m.dropped,
        fingerprint=store.fingerprint,
    )


def _labels(store: Store) -> dict[str, Any]:
    if store.labels is None:
        return {"labels": 0, "label_status": {}, "labels_of_others": 0}
    own = current_labels(store.labels, store.lineage)
    n_others = store.labels.read(lambda c: n_labels_of_others(c, store.lineage), 0)
    counts = Counter(label.status for label in own)
    n_features = len({label.feature for label in own})
    return {"labels": n_features, "label_status": dict(sorted(counts.items())), "labels_of_others": n_others}


def _validation(store: Store) -> ValidationStatus | None:
    """What the tables beside a store hold; like labels it is no part of the evidence, which is about the store."""
    validation = store.validation
    if validation is None:
        return None
    from saeinterp_mcp.validation.audit import audit

    found, manifest = audit(validation), validation.manifest
    return ValidationStatus(
        sae_id=visible_token(manifest.sae_id),
        tables=list(found.tables),
        n_features_explained=found.n_features_explained,
        explanations=found.explanations,
        explainers=[visible_token(one) for one in found.explainers[:NAMES_SHOWN]],
        scorers=[visible_token(one) for one in found.scorers[:NAMES_SHOWN]],
        metrics=list(found.metrics),
        embedder=visible_token(manifest.embedder.name) if manifest.embedder else None,
        compat=manifest.compat,
        warnings=list(found.warnings),
        notes=[visible(shortened(one, NOTE_SHOWN)) for one in manifest.warnings[:NOTES_SHOWN]],
    )


def _runs(store: Store) -> list[RunShown]:
    """Read from the ledger, where there is one."""
    ledger = ledger_of(store)
    if ledger is None:
        return []
    return [
        RunShown(
            run=one.run,
            kind=one.kind,
            state=one.state,
            n_done=one.n_done,
            n_total=one.n_total,
            calls=one.n_calls,
            tokens=one.input_tokens + one.output_tokens + one.cached_tokens + one.written_tokens,
            usd=None if one.usd is None else round(one.usd, 6),
            started_at=one.started_at,
        )
        for one in ledger.runs_of(store.lineage)[:RUNS_SHOWN]
    ]


def _without_files(made_from: dict[str, Any] | None) -> dict[str, Any] | None:
    """Hashes of files stay in the manifest; an answer has little room."""
    return None if made_from is None else {k: v for k, v in made_from.items() if k != "files"}
