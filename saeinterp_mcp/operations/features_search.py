"""Which features are worth a look, or fire on this token?"""

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from saeinterp_mcp.analysis.examples import token_log_odds
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.errors import BadInput, NotInStore, UnknownName
from saeinterp_mcp.operations.base import (
    Cell,
    Cursor,
    Limit,
    Result,
    SplitArgument,
    Table,
    number,
    page,
    percent,
    sealed,
    table_rows,
)
from saeinterp_mcp.operations.feature_groups import check_thresholds, grouped
from saeinterp_mcp.operations.known_names import nearest_tokens
from saeinterp_mcp.operations.label_search import by_label
from saeinterp_mcp.operations.labelled import labelled
from saeinterp_mcp.operations.search_metrics import STORED, FeatureFilter, Metrics, check_metric, read_filter
from saeinterp_mcp.store.base import AnyArray, Bools, Store
from saeinterp_mcp.store.manifest import SPLITS, Split

Floats = NDArray[np.float64]


class FeaturesSearch(Result):
    """Features, best first."""

    by: str
    query: str | None
    total: int
    """Features that match, before `limit`."""
    columns: list[str]
    rows: list[list[Cell]]
    groups: Table | None = None
    """With `thresholds`: the features by the metric; each group's `where` selects it."""

    @model_serializer(mode="wrap")
    def _groups_only_when_asked(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = serialize(self)
        if self.groups is None:
            body.pop("groups", None)
        return body


def features_search(
    store: Store,
    query: Annotated[
        str | None, Field(description="Token to find (by token), or text of a label (by label)")
    ] = None,
    by: Annotated[
        Literal["label", "token", "metric", "priority"] | None,
        Field(description="Default token with a query, else priority"),
    ] = None,
    where: Annotated[
        str | None, Field(description="Filter on features: max>=3 and score_fuzz>0.6 and explainer=x")
    ] = None,
    sort: Annotated[
        str | None, Field(description=f"Metric, - ascending: {', '.join(STORED)}, score_fuzz, ...")
    ] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
    split: SplitArgument = "explain",
    thresholds: Annotated[list[float] | None, Field(description="Cut sort's metric into groups")] = None,
) -> FeaturesSearch:
    """Find features: firing on a token, by a metric, or by priority (importance = mean activation x decoder effect).

    Features that hardly ever fire are flagged and left out unless `where` is given.
    """
    chosen = by or ("token" if query is not None else "priority")
    asked = read_filter(where, store)
    metrics = Metrics(store, split, asked.selected)
    keep = asked.mask(metrics)
    warnings: list[str] = []
    groups = _groups(store, metrics, keep, asked, chosen, sort, thresholds)
    if asked.root is None and thresholds is None and chosen != "label":
        flagged = below_floor(store)
        keep &= ~flagged
        if flagged.any():
            floor = "".join(
                f" or have {name} < {value:g}" for name, value in store.manifest.search_floor.items()
            )
            warnings.append(
                f"{int(flagged.sum())} features that never fire{floor} are left out; give where to see them"
            )
    extra: dict[str, NDArray[Any]] = {}
    by_meaning = np.zeros(len(keep), bool)
    why: Callable[[int], str]
    if chosen == "label":
        matches = by_label(store, query, metrics["importance"])
        order_by, why = matches.scores, matches.why
        keep &= matches.found
        warnings += matches.warnings
        by_meaning = matches.by_meaning
    elif chosen == "token":
        order_by, why, extra, fires = _by_token(store, query, split)
        keep &= fires
        bare = str(query).strip().lower()
        others = [t for t in store.tokens if t != query and bare and t.strip().lower() == bare]
        if others:
            warnings.append(f"other tokens like it: {', '.join(repr(visible_token(t)) for t in others[:4])}")
    else:
        order_by, why, extra = _by_metric(store, metrics, sort)
    if chosen == "token" and sort is not None:
        raise BadInput("sort goes with by metric or priority; by token is sorted by the token's log-odds")
    if chosen == "priority" and not store.backend.has("outputs/norm"):
        warnings.append("no decoder in this store: importance is the mean activation alone")
    order = np.lexsort((np.arange(len(keep)), -np.nan_to_num(order_by, nan=-np.inf)))
    order = order[keep[order]]
    arguments: dict[str, Any] = {"query": query, "by": chosen, "where": where, "sort": sort, "split": split}
    arguments |= {} if thresholds is None else {"thresholds": thresholds}
    shown, next_cursor, more = page(order.tolist(), limit, cursor, store, ["features_search", arguments])
    pick = np.array(shown, np.int64)
    columns = ["feature", "label", "firing_rate", "max", "why", "importance", *extra]
    rows = table_rows(
        pick,
        [None] * len(pick),
        metrics["firing_rate"][pick],
        metrics["max"][pick],
        [why(k) for k in shown],
        metrics["importance"][pick],
        *(column[pick] for column in extra.values()),
    )
    what = "fire on the token of the query" if chosen == "token" else "match"
    n_by_meaning = int((keep & by_meaning).sum())
    told = f", {n_by_meaning} of them by what their labels mean" if n_by_meaning else ""
    result = FeaturesSearch(
        operation="features_search",
        store=store.name,
        basis="judged" if n_by_meaning else "observed",
        summary=(
            f"{len(order)} of {len(keep)} features {what}{told}; {len(shown)} shown, "
            f"best first by {_named(chosen, sort)}."
        ),
        warnings=warnings,
        split=split,
        where=where,
        by=chosen,
        query=query,
        total=len(order),
        columns=columns,
        rows=rows,
        next_cursor=next_cursor,
        more=more,
        groups=groups,
    )
    return labelled(sealed(result, store, {**arguments, "limit": limit, "cursor": cursor}), store)


def _by_metric(
    store: Store, metrics: Metrics, sort: str | None
) -> tuple[Floats, Callable[[int], str], dict[str, NDArray[Any]]]:
    """Rank by a metric; of a metric of the tables beside the store, its values and of how many each is the mean."""
    key = sort or "importance"
    name = key.removeprefix("-")
    check_metric(name, store)
    values = metrics[name]

    def why(f: int) -> str:
        return f"{name} {values[f]:.4g}" if values[f] == values[f] else f"{name} is not known"

    extra = {} if name in STORED else {name: values, "n_averaged": metrics.n_averaged(name)}
    return -values if key.startswith("-") else values, why, extra


def _groups(
    store: Store,
    metrics: Metrics,
    keep: Bools,
    asked: FeatureFilter,
    chosen: str,
    sort: str | None,
    thresholds: list[float] | None,
) -> Table | None:
    if thresholds is None:
        return None
    if sort is None or chosen not in ("metric", "priority"):
        raise BadInput(
            "thresholds cut the metric that sort names, e.g. sort score_fuzz with thresholds 0.5 and 0.7"
        )
    name = sort.removeprefix("-")
    check_metric(name, store)
    check_thresholds(thresholds)
    return grouped(metrics, keep, asked, name, thresholds)


def _named(chosen: str, sort: str | None) -> str:
    return {"token": "log-odds", "label": "match", "metric": sort or "importance"}.get(
        chosen, sort or "importance"
    )


@lru_cache(maxsize=16)
def feature_metrics(store: Store, split: Split, only: int | None = None) -> dict[str, Floats]:
    """Every metric of every feature, (F,) each, or of one, (1,); importance is mean activation x effect norm."""
    s = SPLITS.index(split)

    def read(name: str) -> AnyArray:
        return store.backend.column(name) if only is None else store.backend.span(name, only, only + 1)

    n = max(store.n_rows(split), 1)
    n_firing = read("stats/n_firing")[:, s].astype(np.float64)
    mean = read("stats/sum")[:, s] / n
    norm = (
        read("outputs/norm").astype(np.float64)
        if store.backend.has("outputs/norm")
        else np.full(len(mean), np.nan)
    )
    return {
        "firing_rate": n_firing / n,
        "n_firing": n_firing,
        "mean": mean,
        "max": read("stats/max")[:, s].astype(np.float64),
        "effective_max": read("stats/effective_max").astype(np.float64),
        "effect_norm": norm,
        "importance": mean * norm if np.isfinite(norm).all() else mean,
    }


def importance_percentile(store: Store, feature: int) -> float | None:
    """Share of features, in percent, that are less important; None where no one has counted all activations."""
    if store.manifest.straight is not None or store.manifest.coverage != "full":
        return None
    importance = feature_metrics(store, "all")["importance"]
    return number(100 * float((importance < importance[feature]).mean()))


def below_floor(store: Store, only: int | None = None) -> Bools:
    """Features (or one) under the store's search floor (of the whole store), and those that never fire."""
    metrics = feature_metrics(store, "all", only)
    flagged = np.asarray(metrics["n_firing"] == 0)
    for name, floor in store.manifest.search_floor.items():
        flagged |= ~(metrics[name] >= floor)
    return flagged


def _by_token(
    store: Store, query: str | None, split: Split
) -> tuple[Floats, Callable[[int], str], dict[str, NDArray[Any]], Bools]:
    """Rank by shrunken log-odds of firing on rows that hold the token."""
    store.need_full_coverage("features_search by token")
    if query is None:
        raise BadInput("by token needs query, the token to find")
    token = _find_token(store, query)
    n_rows = store.n_rows(split)
    if store.is_sequence:
        rows = np.flatnonzero(store.token_of_rows(np.arange(n_rows)) == token)
    else:
        at = np.flatnonzero(store.sample_tokens[: int(store.first_token[n_rows])] == token)
        rows = np.searchsorted(store.first_token, at, side="right") - 1
    if not len(rows):
        raise NotInStore(
            f"token {query!r} is in the vocabulary but never in the {split} split; try split all"
        )
    _, features, _ = store.firing_at(rows)
    k = np.bincount(features, minlength=store.manifest.n_features).astype(np.float64)
    fires = feature_metrics(store, split)["n_firing"]
    scores = token_log_odds(k, float(len(rows)), fires, n_rows)
    share = np.divide(k, fires, out=np.zeros_like(k), where=fires > 0)

    def why(f: int) -> str:
        return (
            f"fires on {percent(k[f] / len(rows))} of its {len(rows)} rows; "
            f"{percent(share[f])} of the feature's firings"
        )

    return scores, why, {"log_odds": scores, "token_rate": k / len(rows), "share_of_firings": share}, k > 0


def _find_token(store: Store, query: str) -> int:
    if query in store.token_ids:
        return store.token_ids[query]
    shown = {visible_token(t): i for t, i in store.token_ids.items()}
    if query in shown:
        return shown[query]
    near = nearest_tokens(store, query)
    tail = f"; nearest: {', '.join(repr(visible_token(t)) for t in near)}" if near else ""
    raise UnknownName(f"the vocabulary of store {store.name!r} has no token {query!r}{tail}")
