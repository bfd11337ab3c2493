"""On which samples does the feature fire, nearly fire, or stay silent?"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from saeinterp_mcp.analysis.examples import from_core, spread_over_quantiles, token_log_odds
from saeinterp_mcp.analysis.firing import strongest
from saeinterp_mcp.analysis.sampling import one_per_unit, rng, seeded_hash, uniform_silent
from saeinterp_mcp.analysis.text import sequence_text, set_text, visible_token
from saeinterp_mcp.errors import BadInput, UnknownName, nearest
from saeinterp_mcp.operations.base import (
    Cell,
    Cursor,
    Feature,
    Limit,
    ScopeArgument,
    Seed,
    SplitArgument,
    TableResult,
    Where,
    Window,
    page,
    sealed,
)
from saeinterp_mcp.operations.known_names import nearest_tokens
from saeinterp_mcp.operations.slicing import Scoping, Slice, make_slice
from saeinterp_mcp.store.base import Ints, Store
from saeinterp_mcp.store.layout import EXAMPLES, TOP

Pick = Literal["top", "spread", "core", "near_miss", "silent"]
BEFORE, AFTER = 24, 10
MEANING = {
    "top": "the strongest activations",
    "spread": "activations spread evenly over the feature's range",
    "core": "activations in the core region (25 to 75 % of the effective maximum)",
    "near_miss": "silent rows whose tokens go most with firing",
    "silent": "rows drawn uniformly from the silent ones",
}


class FeatureExamples(TableResult):
    """Rows; `sample` is the sample's row in the input, in `text` the row's own token is marked <<so>>."""

    pick: str
    total: int
    """Rows of this pick that were at hand."""


def feature_examples(
    store: Store,
    feature: Feature,
    pick: Annotated[Pick, Field(description="Which rows")] = "top",
    contains: Annotated[str | None, Field(description="Samples with this token")] = None,
    group: Annotated[str | None, Field(description="Samples of NAME=VALUE")] = None,
    limit: Limit = 10,
    cursor: Cursor = None,
    where: Where = None,
    scope: ScopeArgument = "at",
    window: Window = 16,
    split: SplitArgument = "explain",
    seed: Seed = 0,
) -> FeatureExamples:
    """Samples of a feature: strongest, spread over its range, from its core, near misses, or silent.

    In `text` the row's token is marked <<so>>. All but top come from the explain split only.
    """
    if pick in ("near_miss", "silent"):
        store.need_full_coverage(f"feature_examples with pick {pick}")
    used = split if pick == "top" else "explain"
    part = make_slice(store, feature, used, where, Scoping(scope, window), given=_group_rule(store, group))
    if contains is not None:
        part = _containing(part, contains)
    rows, activations = _pick(part, pick, seed)
    total = len(rows)
    if pick == "spread" and total > limit:
        # fewer rows still span the range
        kept = np.linspace(0, total - 1, limit).round().astype(np.int64)
        rows, activations = rows[kept], activations[kept]
    arguments: dict[str, Any] = {
        "feature": feature,
        "pick": pick,
        "contains": contains,
        "group": group,
        "where": where,
        "scope": scope,
        "window": window,
        "split": split,
        "seed": seed,
    }
    shown, next_cursor, more = page(range(len(rows)), limit, cursor, store, ["feature_examples", arguments])
    warnings = list(part.warnings)
    if not len(rows):
        always = part.n_rows > 0 and len(part.firing[0]) == part.n_rows
        warnings.append(
            f"no silent row: the feature fires on all {part.n_rows} rows of the slice"
            if always and pick in ("silent", "near_miss")
            else "no such row: absent data, not a zero"
        )
    if split == "all" and pick != "top":
        warnings.append(f"pick {pick} draws from the explain split, whatever split says")
    columns, table = example_table(store, rows[list(shown)], activations[list(shown)])
    result = FeatureExamples(
        operation="feature_examples",
        store=store.name,
        basis="observed",
        summary=f"{len(shown)} of {total} rows at hand: {MEANING[pick]}.",
        warnings=warnings,
        seed=seed,
        split=part.split,
        where=where,
        feature=feature,
        pick=pick,
        total=total,
        columns=columns,
        rows=table,
        next_cursor=next_cursor,
        more=more,
    )
    return sealed(result, store, {**arguments, "limit": limit, "cursor": cursor})


def example_table(
    store: Store, rows: Ints, activations: np.ndarray[Any, Any], before: int = BEFORE, after: int = AFTER
) -> tuple[list[str], list[list[Cell]]]:
    """Columns and rows that show stored rows: sample (its row in the input), position, activation, text, groups."""
    groups = store.manifest.groups
    columns = [
        "sample",
        "position",
        "activation",
        "text",
        *(["token"] if store.is_sequence else []),
        *(g.name for g in groups),
    ]
    first = next(
        p
        for p in range(len(store.manifest.excluded_positions) + 1)
        if p not in store.manifest.excluded_positions
    )
    table: list[list[Cell]] = []
    for row, activation in zip(rows.tolist(), activations.tolist(), strict=True):
        sample, position = int(store.row_sample[row]), int(store.row_position[row])
        tokens = [store.tokens[i] for i in store.tokens_of_sample(sample).tolist()]
        cells: list[Cell] = [int(store.source[sample]), position, activation]
        if store.is_sequence:
            cells += [sequence_text(tokens, position, first, before, after), visible_token(tokens[position])]
        else:
            cells.append(set_text(tokens))
        cells += [visible_token(g.values[int(store.group_of_samples(g.name)[sample])]) for g in groups]
        table.append(cells)
    return columns, table


def _pick(part: Slice, pick: Pick, seed: int) -> tuple[Ints, np.ndarray[Any, Any]]:
    """Rows and activations (0 for silent rows); precomputed for a whole split, drawn anew in a slice."""
    store, feature = part.store, part.feature
    if part.mask is None and pick == "top":
        rows = store.list_of_feature("top/rows", feature, part.split)
        return rows, store.list_of_feature("top/values", feature, part.split)
    stored = seed == store.manifest.seeds.get("examples", 0) and store.backend.has(f"examples/{pick}")
    # near misses are stored by the tokens at the position; other scopes have others
    if (part.is_whole if pick == "near_miss" else part.mask is None) and stored:
        rows = store.list_of_feature(f"examples/{pick}", feature)
    else:
        rows = _draw(part, pick, seed)
    firing, values = part.firing
    if not len(firing):
        return rows, np.zeros(len(rows))
    at = np.minimum(np.searchsorted(firing, rows), len(firing) - 1)
    return rows, np.where(firing[at] == rows, values[at], 0.0)


def _draw(part: Slice, pick: Pick, seed: int) -> Ints:
    store, feature = part.store, part.feature
    rows, values = part.firing
    generator = rng(seed, pick, feature)
    exact = values.astype(np.float32)
    if pick == "top":
        return rows[strongest(rows, exact, TOP)]
    if pick == "spread":
        return spread_over_quantiles(rows, exact, store.row_unit, EXAMPLES, generator)
    if pick == "core":
        maximum = float(store.per_feature("stats/effective_max", feature))
        return from_core(rows, exact, maximum, store.row_unit, EXAMPLES, generator)
    inside = np.arange(store.n_rows(part.split)) if part.mask is None else np.flatnonzero(part.mask)
    if pick == "silent":
        return inside[uniform_silent(np.searchsorted(inside, rows), len(inside), EXAMPLES, generator)]
    return _near_misses(part, inside, seed)


def _near_misses(part: Slice, inside: Ints, seed: int) -> Ints:
    """Silent rows of the slice with the largest summed shrunken log-odds of their tokens in scope."""
    store, rows = part.store, part.firing[0]
    if not len(rows):
        return rows
    entry, token = part.labels("tokens").of_rows(inside)
    fires = np.isin(inside, rows)
    n = np.bincount(token, minlength=len(store.tokens)).astype(np.float64)
    n_firing = np.bincount(token[fires[entry]], minlength=len(store.tokens)).astype(np.float64)
    log_odds = token_log_odds(n_firing, n, float(len(rows)), len(inside))
    score = np.round(np.bincount(entry, log_odds[token], len(inside)), 9)[~fires]
    silent = inside[~fires]
    order = np.lexsort((seeded_hash(silent, seed, "near_miss", part.feature), -score))
    return one_per_unit(silent[order], store.row_unit, EXAMPLES)


def _group_rule(store: Store, group: str | None) -> str | None:
    if group is None:
        return None
    name, separator, value = group.partition("=")
    if not separator:
        raise BadInput(
            f"group must be NAME=VALUE, found {group!r}; groups: {', '.join(store.groups) or 'none'}"
        )
    info = store.group(name.strip())
    if value.strip() not in info.values:
        raise UnknownName(
            f"group {info.name!r} has no value {value.strip()!r}; {nearest(value.strip(), info.values)}"
        )
    escaped = value.strip().replace("\\", "\\\\").replace('"', '\\"')
    return f'{info.name}="{escaped}"'


def _containing(part: Slice, contains: str) -> Slice:
    """Only rows of samples that hold a token."""
    store = part.store
    if contains not in store.token_ids:
        near = nearest_tokens(store, contains)
        tail = f"; nearest: {', '.join(map(repr, near))}" if near else ""
        raise UnknownName(f"the vocabulary of store {store.name!r} has no token {contains!r}{tail}")
    n_rows = store.n_rows(part.split)
    at = np.flatnonzero(store.sample_tokens == store.token_ids[contains])
    holds = np.zeros(store.manifest.n_samples, bool)
    holds[np.searchsorted(store.first_token, at, side="right") - 1] = True
    mask = holds[store.row_sample[:n_rows]]
    return Slice(
        store,
        part.feature,
        part.split,
        part.scoping,
        mask if part.mask is None else mask & part.mask,
        part.warnings,
    )
