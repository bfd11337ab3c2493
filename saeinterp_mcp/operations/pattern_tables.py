"""A feature's pattern-validation view out of the tables beside a store, as `validate` made them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saeinterp_mcp.clients.embedding import Embedder, default_embedder
from saeinterp_mcp.errors import BadInput, Unavailable
from saeinterp_mcp.operations.explanation_texts import Said
from saeinterp_mcp.operations.pattern_views import (
    PERCENTILE,
    Totals,
    View,
    by_words,
    claimed,
    match_all,
    ngrams_of,
    together,
)
from saeinterp_mcp.patterns.records import (
    Coherence,
    Group,
    Matched,
    Ngram,
    Occurrence,
    PatternType,
    Phrase,
    Verdict,
)
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.validation.folder import Validation

if TYPE_CHECKING:
    from saeinterp_mcp.validation.baselines import Baselines, BaselineSettings
    from saeinterp_mcp.validation.groups import GroupReader

NEEDED = ("activation_examples", "prompts", "activation_embeddings")
MATCHED, ALIKE = "ex_act_pattern_matching", "activation_example_similarity"
N_RANDOM, PER_QUANTILE = 200, 2
"""Of a folder in which nothing was matched: as `validate` has them by default."""
NO_VECTORS = "the tables beside the store hold no vectors"
NOTHING_TESTED = Totals(0, 0, None, None, None)


def has_examples(validation: Validation | None) -> bool:
    """Whether examples of activations lie beside the store."""
    return validation is not None and all(validation.has(name) for name in NEEDED)


def tables_view(store: Store, validation: Validation, feature: int, said: Sequence[Said]) -> View:
    """Stored verdicts where all of these explanations have them; else all are compared now, with the same baselines."""
    row = _row(validation, MATCHED, feature)
    stored = _stored_matches(row)
    kept = [stored.get(one.explainer) if one.in_tables and one.status == "ok" else None for one in said]
    alike = _row(validation, ALIKE, feature)
    new = [one for one, found in zip(said, kept, strict=True) if one.status == "ok" and found is None]
    reader, settings = _examples_of(validation.path, _version(validation))
    group = reader.groups([feature], settings.per_quantile).get(feature, Group(feature, ()))
    warnings = ["these tables are as SAE_vis computed them (compat)"] if validation.manifest.compat else []
    matched: tuple[Matched | None, ...] = tuple(kept)
    totals = _stored_totals(row) if any(kept) else NOTHING_TESTED
    if new:
        embedder, reason = _same_embedder(validation, group)
        warnings += [by_words(reason)] if reason else []
        matched, totals = _compared(store, _baselines(validation), group, said, kept, embedder)
    elif group.vectors is None and group.windows:
        warnings.append(by_words(NO_VECTORS))
    coherence = _coherence(alike, row, settings.percentile)
    record = validation.manifest.embedder
    return View(
        coherence=coherence or _baselines(validation).coherence.of(group, settings.percentile),
        ngrams=_ngrams(alike["top_common_ngrams"])
        if alike
        else ngrams_of(group, reader.is_set, settings.core),
        windows=group.windows,
        is_set=reader.is_set,
        matched=matched,
        totals=totals,
        baseline=f"examples of {settings.n_random_features} random features, seed {settings.seed}",
        model=f"{record.name}:{record.fingerprint}" if record and group.vectors is not None else None,
        seed=settings.seed,
        warnings=tuple(warnings),
    )


def _version(validation: Validation) -> tuple[str, ...]:
    """What changes when the tables do."""
    tables = [f"master/{name}.parquet" for name in (*NEEDED, MATCHED) if validation.has(name)]
    return tuple(validation.manifest.files[table].sha256 for table in tables)


@lru_cache(maxsize=4)
def _examples_of(path: Path, version: tuple[str, ...]) -> "tuple[GroupReader, BaselineSettings]":
    """The reader of examples, and how baselines are drawn: as the tables' were, or as `validate` does by default."""
    from saeinterp_mcp.validation.baselines import BaselineSettings, settings_of
    from saeinterp_mcp.validation.groups import reader_of

    folder = Validation(path)
    reader = reader_of(folder)
    if folder.has(MATCHED) and not folder.manifest.compat:
        return reader, settings_of(folder)
    seed = folder.manifest.seed
    return reader, BaselineSettings(
        n_random_features=N_RANDOM, per_quantile=PER_QUANTILE, percentile=PERCENTILE, seed=seed
    )


def _baselines(validation: Validation) -> "Baselines":
    from saeinterp_mcp.validation.baselines import published_baselines

    if validation.has(MATCHED) and not validation.manifest.compat:
        return published_baselines(validation).baselines
    return _default_baselines(validation.path, _version(validation))


@lru_cache(maxsize=2)
def _default_baselines(path: Path, version: tuple[str, ...]) -> "Baselines":
    from saeinterp_mcp.validation.baselines import baselines_of

    return baselines_of(*_examples_of(path, version))


def _compared(
    store: Store,
    baselines: "Baselines",
    group: Group,
    said: Sequence[Said],
    kept: Sequence[Matched | None],
    embedder: Embedder | None,
) -> tuple[tuple[Matched | None, ...], Totals]:
    """Everything now; where no text can be embedded, what is stored stays and the rest is matched by words."""
    settings, match = baselines.settings, baselines.match
    if embedder is not None or not any(kept):
        try:
            claims = claimed(store, said, embedder, settings.chunk_method)
            return match_all(match.match([*claims, *together(claims)], group, settings.percentile), said)
        except (BadInput, Unavailable):
            if embedder is None:
                raise
    claims = claimed(store, said, None, settings.chunk_method)
    by_text = match_all(match.match([*claims, *together(claims)], group, settings.percentile), said)[0]
    mixed = tuple(old or new for old, new in zip(kept, by_text, strict=True))
    known = [one for one in mixed if one is not None]
    n_tested, n_matches = sum(one.n_tested for one in known), sum(one.n_matches for one in known)
    return mixed, Totals(n_tested, n_matches, n_matches / n_tested if n_tested else None, None, None)


def _same_embedder(validation: Validation, group: Group) -> tuple[Embedder | None, str | None]:
    """The default embedder where it made the folder's vectors too, or why words alone are compared."""
    record, embedder = validation.manifest.embedder, default_embedder()
    if record is None or group.vectors is None:
        return None, NO_VECTORS
    if (reason := embedder.why_not()) is not None:
        return None, reason
    theirs = f"{record.name}:{record.fingerprint}"
    try:
        if embedder.name == theirs:
            return embedder, None
        return None, f"the tables were made with {theirs}, texts are embedded with {embedder.name} here"
    except (BadInput, Unavailable) as error:
        return None, str(error)


def _row(validation: Validation, table: str, feature: int) -> Mapping[str, Any] | None:
    if not validation.has(table):
        return None
    return next(validation.of_feature(table, feature).iter_rows(named=True), None)


def _stored_matches(row: Mapping[str, Any] | None) -> dict[str, Matched]:
    """Explainer to its verdicts."""
    if row is None:
        return {}
    found: dict[str, Matched] = {}
    for one in row["explainers"] or []:
        verdicts = tuple(
            _verdict(p) for p in row["phrases"] or [] if p["explainer_name"] == one["explainer_name"]
        )
        rates = (one["num_tested"], one["num_matches"], one["match_rate"], None, one["match_percentile"])
        found[one["explainer_name"]] = Matched(one["explainer_name"], verdicts, *rates)
    return found


def _verdict(phrase: Mapping[str, Any]) -> Verdict:
    place = Phrase(phrase["phrase_text"], phrase["start"], phrase["end"], phrase["phrase_chunk_index"])
    return Verdict(
        phrase=place,
        match=phrase["match_type"],
        term=phrase["matched_term"],
        lexical=phrase["lexical_similarity"],
        lexical_percentile=phrase["lexical_percentile"],
        semantic=phrase["semantic_similarity"],
        semantic_percentile=phrase["semantic_percentile"],
        shuffled_percentile=phrase["shuffled_percentile"],
    )


def _stored_totals(row: Mapping[str, Any] | None) -> Totals:
    if row is None:
        return NOTHING_TESTED
    rates = row["match_rate"], row["match_rate_by_chance"], row["match_percentile"]
    return Totals(row["num_tested"] or 0, row["num_matches"] or 0, *rates)


def _coherence(
    alike: Mapping[str, Any] | None, row: Mapping[str, Any] | None, percentile: float
) -> Coherence | None:
    if alike is None:
        return None
    char, word = ((*(alike[name] or ()), None, None, None)[:3] for name in JACCARDS)
    semantic, lexical = alike["semantic_percentile"], alike["lexical_percentile"]
    return Coherence(
        semantic=alike["mean_pairwise_similarity"],
        semantic_std=alike["std_pairwise_similarity"],
        semantic_min=alike["min_pairwise_similarity"],
        semantic_max=alike["max_pairwise_similarity"],
        semantic_percentile=semantic,
        jaccard=char,
        word_jaccard=word,
        max_jaccard=alike["max_jaccard"],
        lexical_percentile=lexical,
        pattern=row["pattern_type"] if row else _pattern(semantic, lexical, percentile),
    )


JACCARDS = ("ngram_jaccard_similarity", "word_jaccard_similarity")


def _pattern(semantic: float | None, lexical: float | None, percentile: float) -> PatternType | None:
    if semantic is None and lexical is None:
        return None
    means, words = (one is not None and one > percentile for one in (semantic, lexical))
    return "both" if means and words else "semantic" if means else "lexical" if words else "none"


def _ngrams(rows: Sequence[Mapping[str, Any]] | None) -> tuple[Ngram, ...]:
    return tuple(
        Ngram(
            text=one["ngram"],
            size=one["ngram_size"],
            kind=one["kind"],
            n_occurrences=one["count"],
            n_windows=one["n_examples"],
            occurrences=tuple(
                Occurrence(place["prompt_id"], tuple(place["positions"]), ())
                for place in one["occurrences"] or []
            ),
        )
        for one in rows or []
    )
