"""Does an explanation describe what activates the feature?"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from saeinterp_mcp.analysis.text import sequence_text, set_text, shortened, visible, visible_token
from saeinterp_mcp.operations.base import (
    Cell,
    Feature,
    Limit,
    Seed,
    SplitArgument,
    Table,
    TableResult,
    Where,
    digits,
    percent,
    sealed,
)
from saeinterp_mcp.operations.explanation_texts import Said, explanations_of
from saeinterp_mcp.operations.pattern_tables import has_examples, tables_view
from saeinterp_mcp.operations.pattern_views import View, store_view
from saeinterp_mcp.patterns.baseline import MIN_RANDOM
from saeinterp_mcp.patterns.records import Matched, Ngram, Verdict, Window
from saeinterp_mcp.patterns.spelling import spell
from saeinterp_mcp.store.base import Store

PHRASE_COLUMNS = (
    *("phrase", "explainer", "match", "similarity", "percentile"),
    *("term", "lexical", "lexical_percentile", "semantic", "semantic_percentile", "start", "end"),
)
EXPLAINER_COLUMNS = (
    *("explainer", "source", "status", "n_phrases", "n_tested", "n_matches"),
    *("match_rate", "match_rate_by_chance", "match_percentile", "explanation"),
)
NGRAM_COLUMNS = ("ngram", "kind", "size", "n_examples", "count", "positions")
EXAMPLE_COLUMNS = ("prompt", "quantile", "activation", "position", "text")
EXAMPLES_SHOWN, NGRAMS_SHOWN, POSITIONS_SHOWN = 4, 6, 8
TEXT_SHOWN = 160
"""Characters of an explanation, and of a set."""


class PatternSimilarity(BaseModel):
    """How alike the examples are in one respect."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    value: float | None
    """lexical: largest mean Jaccard of n-grams over pairs of examples; semantic: mean cosine over pairs."""
    percentile: float | None
    """Percent of groups of as many examples of different random features that are less alike."""
    n: int
    """Examples."""
    baseline: str | None
    """What the percentile is among."""


class MatchPatterns(TableResult):
    """Each phrase against the examples. `similarity` and `percentile` are of the better of its two tests: `lexical`,
    the share of examples around whose strongest token `term` stands, and `semantic`, the mean cosine with the closest
    examples; percentiles are among random features' examples. `match` null: not tested."""

    pattern_type: str | None
    """In what the examples are alike beyond chance: semantic, lexical, both, none."""
    lexical: PatternSimilarity
    semantic: PatternSimilarity
    n_tested: int
    n_matches: int
    match_rate: float | None
    """Of all phrases that were tested; null where none was."""
    match_rate_by_chance: float | None
    """Mean of the same phrases on random features."""
    match_percentile: float | None
    """Percent of random features that the same phrases fit less."""
    embedder: str | None
    explainers: Table
    ngrams: Table
    """That examples share around their strongest tokens; `positions` are prompt:position."""
    examples: Table
    """Weakest quantile 0; the strongest token is marked <<so>>."""


def match_patterns(
    store: Store,
    feature: Feature,
    explanation: Annotated[str | None, Field(description="Default: the stored ones")] = None,
    limit: Limit = 12,
    where: Where = None,
    split: SplitArgument = "explain",
    seed: Seed = 0,
) -> MatchPatterns:
    """Does an explanation describe what activates the feature? Each phrase against its examples and those of random
    features, by words and meaning (text embedder).
    """
    store.check_feature(feature)
    validation = store.validation
    said = explanations_of(store, validation, feature, explanation)
    view = (
        tables_view(store, validation, feature, said)
        if validation is not None and has_examples(validation)
        else store_view(store, feature, said, seed)
    )
    rows = [
        _phrase_row(one, verdict)
        for one, matched in zip(said, view.matched, strict=True)
        if matched is not None
        for verdict in matched.verdicts
    ]
    # letters across the members of a set mean nothing
    ngrams = [one for one in view.ngrams if one.kind == "word" or not view.is_set]
    result = MatchPatterns(
        operation="match_patterns",
        store=store.name,
        basis="observed",
        summary=_summary(feature, said, view),
        warnings=[*_unused(where, split, seed, view), *_warnings(store, said, view)],
        seed=view.seed,
        feature=feature,
        pattern_type=view.coherence.pattern,
        lexical=_similarity(view, view.coherence.max_jaccard, view.coherence.lexical_percentile),
        semantic=_similarity(view, view.coherence.semantic, view.coherence.semantic_percentile),
        n_tested=view.totals.n_tested,
        n_matches=view.totals.n_matches,
        match_rate=view.totals.rate,
        match_rate_by_chance=view.totals.rate_by_chance,
        match_percentile=view.totals.rate_percentile,
        embedder=visible(view.model) if view.model else None,
        columns=list(PHRASE_COLUMNS),
        rows=rows[:limit],
        more=len(rows) - len(rows[:limit]) or None,
        explainers=Table(
            columns=list(EXPLAINER_COLUMNS),
            rows=[_explainer_row(*one) for one in zip(said, view.matched, strict=True)],
        ),
        ngrams=Table(columns=list(NGRAM_COLUMNS), rows=[_ngram_row(one) for one in ngrams[:NGRAMS_SHOWN]]),
        examples=Table(columns=list(EXAMPLE_COLUMNS), rows=_examples(view.windows, view.is_set)),
    )
    arguments = {"feature": feature, "explanation": explanation, "limit": limit, "seed": view.seed}
    if where is not None or split != "explain":
        arguments |= {"where": where, "split": split}
    return sealed(result, store, arguments)


def _unused(where: str | None, split: str, seed: int, view: View) -> list[str]:
    """Arguments that every question about a feature takes, and that change nothing here."""
    warnings = []
    if where is not None or split != "explain":
        warnings.append(
            "where and split are not used: the examples are chosen beforehand, spread over the activations of the "
            "explain split; for other samples ask feature_examples"
        )
    if seed not in (0, view.seed):
        warnings.append(
            f"seed {seed} is not used: the tables beside the store were made with seed {view.seed}"
        )
    return warnings


def _phrase_row(said: Said, verdict: Verdict) -> list[Cell]:
    tests = [
        (verdict.lexical, verdict.lexical_percentile),
        (verdict.semantic, verdict.semantic_percentile),
    ]
    better = max(tests, key=lambda one: (one[1] is not None, one[1] or 0.0, one[0] is not None))
    return [
        visible(shortened(verdict.phrase.text, TEXT_SHOWN)),
        visible(said.explainer),
        verdict.match,
        *better,
        None if verdict.term is None else visible_token(verdict.term),
        *tests[0],
        *tests[1],
        verdict.phrase.start,
        verdict.phrase.end,
    ]


def _explainer_row(said: Said, matched: Matched | None) -> list[Cell]:
    numbers: tuple[Cell, ...] = (None, 0, 0, None, None, None)
    if matched is not None:
        rates = (matched.rate, matched.rate_by_chance, matched.rate_percentile)
        numbers = (len(matched.verdicts), matched.n_tested, matched.n_matches, *rates)
    source = None if said.source is None else visible(said.source)
    text = visible(shortened(said.text, TEXT_SHOWN))
    return [visible(said.explainer), source, said.status, *numbers, text]


def _ngram_row(ngram: Ngram) -> list[Cell]:
    places = [f"{one.prompt}:{position}" for one in ngram.occurrences for position in one.positions]
    shown = places[:POSITIONS_SHOWN]
    more = [f"+{len(places) - len(shown)}"] if len(places) > len(shown) else []
    return [
        visible(ngram.text),
        ngram.kind,
        ngram.size,
        ngram.n_windows,
        ngram.n_occurrences,
        [*shown, *more],
    ]


def _examples(windows: tuple[Window, ...], is_set: bool) -> list[list[Cell]]:
    """A few, from the strongest on, each of another quantile first."""
    turn: dict[int, int] = {}
    ordered: list[tuple[int, int, int, Window]] = []
    for window in sorted(windows, key=lambda one: (-one.quantile, -one.strength, one.prompt)):
        turn[window.quantile] = turn.get(window.quantile, -1) + 1
        ordered.append((turn[window.quantile], -window.quantile, len(ordered), window))
    shown = [one[3] for one in sorted(ordered, key=lambda one: one[:3])[:EXAMPLES_SHOWN]]
    rows: list[list[Cell]] = []
    for window in shown:
        text = shortened(set_text(window.tokens), 2 * TEXT_SHOWN) if is_set else _marked(window)
        rows.append([window.prompt, window.quantile, window.strength, window.start + window.at, text])
    return rows


def _marked(window: Window) -> str:
    """The window as text, its strongest token marked."""
    text, spans = spell(window.tokens)
    start, stop = spans[window.at]
    return sequence_text([text[:start], text[start:stop], text[stop:]], 1, 0, 1, 1)


def _similarity(view: View, value: float | None, percentile: float | None) -> PatternSimilarity:
    baseline = None if percentile is None else f"groups of as many {view.baseline}"
    return PatternSimilarity(value=value, percentile=percentile, n=len(view.windows), baseline=baseline)


def _summary(feature: int, said: list[Said], view: View) -> str:
    if not view.windows:
        return (
            f"Feature {feature} has no examples (it does not fire in the data they are taken from), so there is "
            "nothing to set an explanation against."
        )
    alike = {
        "both": "alike in words and meaning",
        "lexical": "alike in words",
        "semantic": "alike in meaning",
        "none": "not more alike than those of random features",
        None: "not compared: there are too few, or too few features beside it",
    }[view.coherence.pattern]
    start = f"The {len(view.windows)} examples of feature {feature} are {alike}"
    totals = view.totals
    if not said:
        return f"{start}. It has no explanation: give one with explanation."
    if not totals.n_tested:
        return f"{start}. No phrase of {len(said)} explanations could be tested."
    return (
        f"{start}; {totals.n_matches} of {totals.n_tested} phrases match ({percent(totals.rate)}; the same phrases on "
        f"random features {percent(totals.rate_by_chance)}, percentile {digits(totals.rate_percentile)}). "
        f"{'Words and a text embedder' if view.model else 'Words alone'} were compared; nobody judged."
    )


def _warnings(store: Store, said: list[Said], view: View) -> list[str]:
    warnings = list(view.warnings)
    if not said:
        warnings.append(
            "no label in use and no stored explanation: match_rate is null; explanation takes a text to test"
        )
    if failed := [one for one in said if one.status != "ok"]:
        warnings.append(f"{len(failed)} explanations failed (see status) and are in no rate")
    if store.manifest.coverage != "full":
        warnings.append(
            "this store is sampled: the examples are among the strongest, weaker firings are not seen"
        )
    if view.windows and view.coherence.lexical_percentile is None and not view.totals.n_tested:
        warnings.append(
            f"under {MIN_RANDOM} random features to compare with: percentiles and verdicts are null"
        )
    return warnings
