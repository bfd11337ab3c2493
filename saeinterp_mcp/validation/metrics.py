"""Metrics of features from the published tables: one value a feature, the mean over the rows that were selected.

Rows of failed explanations (unparsed, empty, runaway) and scores that `features.parquet` leaves out (of other words, or
of a later source) are in no mean, and what is not known is NaN, never 0.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.validation.folder import OTHER_TEXTS, Validation

if TYPE_CHECKING:
    import polars as pl

Floats = NDArray[np.float64]
SCORED = ("fuzz", "detection", "simulation", "embedding", "surprisal")
QUALITY = ("fuzz", "detection")
"""What `overall_score` is made of. The embedding score says little of an explanation: it follows the text sample."""
METRICS = (
    *(f"score_{method}" for method in SCORED),
    "overall_score",
    "semsim_mean",
    "semsim_percentile",
    "feature_splitting",
    "match_rate",
    "match_percentile",
    "activation_semantic_sim",
    "semantic_percentile",
    "activation_max_jaccard",
    "lexical_percentile",
)
OF_EXAMPLES = {
    "activation_semantic_sim": "mean_pairwise_similarity",
    "semantic_percentile": "semantic_percentile",
    "activation_max_jaccard": "max_jaccard",
    "lexical_percentile": "lexical_percentile",
}
"""Metric to the column of `activation_example_similarity`; in `ex_act_pattern_matching` it is called as here."""


class Selected(NamedTuple):
    """Which rows make up a feature's metrics; None: all."""

    explainers: frozenset[str] | None = None
    scorers: frozenset[str] | None = None
    methods: frozenset[str] | None = None
    """How examples were chosen for the explainer."""


class Names(NamedTuple):
    """What rows can be selected by, each sorted."""

    explainers: tuple[str, ...]
    scorers: tuple[str, ...]
    methods: tuple[str, ...]


class Metric(NamedTuple):
    """A metric of every feature."""

    values: Floats
    """(F,) NaN where it is not known."""
    n: Floats
    """(F,) values of which it is the mean; 0 where there is none."""


@lru_cache(maxsize=4)
def names(validation: Validation) -> Names:
    """Every explainer, scorer and method that a row has."""
    said, scored = explanations(validation), scores(validation)
    explainers = {*said["explainer"].unique(), *scored["explainer"].unique()}
    methods = {*said["method"].unique()}
    scorers = {*scored["scorer"].unique()}
    return Names(*(tuple(sorted(one for one in each if one)) for each in (explainers, scorers, methods)))


@lru_cache(maxsize=256)
def metric(validation: Validation, name: str, n_features: int, selected: Selected = Selected()) -> Metric:
    """(F,) a metric of every feature: first rows are selected, then averaged.

    Args:
        validation: the published folder.
        name: of METRICS.
        n_features: F; features beyond are left out.
        selected: which rows count. Metrics that have no explainer (of examples, of decoders) are not changed by it.
    """
    assert name in METRICS, f"{name} is no metric of {METRICS}"
    return _spread(_rows(validation, name, selected), n_features)


@lru_cache(maxsize=64)
def has_rows(validation: Validation, n_features: int, selected: Selected) -> NDArray[np.bool_]:
    """(F,) features with an explanation or a score among the selected rows."""
    found = np.zeros(n_features, bool)
    tables = [select_rows(scores(validation), selected)]
    if selected.scorers is None:
        tables.append(select_rows(explanations(validation), selected))
    for table in tables:
        ids = table["feature"].unique().to_numpy()
        found[ids[ids < n_features]] = True
    return found


@lru_cache(maxsize=4)
def explanations(validation: Validation) -> "pl.DataFrame":
    """feature, explainer, data_source, method, status, and vector where there is one: a row an explanation, failed ones
    too."""
    import polars as pl

    columns = {"feature_id": "feature", "llm_explainer": "explainer", "explanation_method": "method"}
    own = ("data_source", "status")
    for name in ("explanation_embeddings", "features"):
        if validation.has(name):
            more = ["vector"] if name == "explanation_embeddings" else []
            found = validation.table(name).select([*columns, *own, *more]).rename(columns)
            return found.with_columns(pl.col("explainer", "method", *own).cast(pl.String)).collect()
    return pl.DataFrame(
        schema={"feature": pl.UInt32} | dict.fromkeys(("explainer", "method", *own), pl.String)
    )


@lru_cache(maxsize=4)
def scores(validation: Validation) -> "pl.DataFrame":
    """feature, explainer, scorer, scored_by, score, n, n_failed, chance_low, chance_high, held_out, status, method:
    a row a test; `scored_by` is fuzz, detection, ...; `status` and `method` are those of the explanation.

    Those that count: of the words that are kept, the first source's where several tested alike.
    """
    import polars as pl

    columns = {
        "feature_id": "feature",
        "llm_explainer": "explainer",
        "llm_scorer": "scorer",
        "method": "scored_by",
        **{
            name: name
            for name in ("data_source", "score", "n", "n_failed", "chance_low", "chance_high", "held_out")
        },
    }
    text = ("explainer", "scorer", "scored_by", "data_source", "held_out")
    if not validation.has("scores"):
        types = {new: pl.String if new in text else pl.Float64 for new in columns.values()}
        schema = {**types, "feature": pl.UInt32, "method": pl.String, "status": pl.String}
        return pl.DataFrame(schema=schema)
    found = validation.table("scores").select(list(columns)).rename(columns)
    tests = _of_these_words(validation, found.with_columns(pl.col(*text).cast(pl.String)).collect())
    return _of_the_first_source(validation, _explained(validation, tests))


def _of_these_words(validation: Validation, tests: "pl.DataFrame") -> "pl.DataFrame":
    """Without those of other words than the explanation that is kept; importers' tables keep all words."""
    import polars as pl

    if validation.manifest.compat or OTHER_TEXTS not in validation.manifest.files:
        return tests
    others = [(name, f) for name, features in validation.document(OTHER_TEXTS).items() for f in features]
    schema = {"data_source": pl.String, "feature": pl.UInt32}
    left_out = pl.DataFrame(others, schema=schema, orient="row")
    return tests.join(left_out, on=list(schema), how="anti", maintain_order="left")


def _explained(validation: Validation, tests: "pl.DataFrame") -> "pl.DataFrame":
    """With `status` and `method` of the source's own explanation; else (an equal text is kept once) of the first."""
    import polars as pl

    keys, about = ["feature", "explainer"], ["method", "status"]
    said = explanations(validation).select(*keys, "data_source", *about)
    own = said.unique([*keys, "data_source"], keep="first", maintain_order=True)
    first = said.unique(keys, keep="first", maintain_order=True).drop("data_source")
    joined = tests.join(own, on=[*keys, "data_source"], how="left", maintain_order="left")
    joined = joined.join(first, on=keys, how="left", maintain_order="left", suffix="_first")
    joined = joined.with_columns(pl.coalesce(name, f"{name}_first").alias(name) for name in about)
    return joined.drop(f"{name}_first" for name in about)


def _of_the_first_source(validation: Validation, tests: "pl.DataFrame") -> "pl.DataFrame":
    """One of each kind of test: as `pipeline.validation.kept_scores`, but a failed text never stands before another."""
    import polars as pl

    sources = validation.sidecar("scores")["config_used"].get("data_sources", ())
    order = {source["name"]: i for i, source in enumerate(sources)} | {"labels": 2**31}
    place = pl.col("data_source").replace_strict(order, default=2**31 - 1, return_dtype=pl.UInt32)
    failed = (pl.col("status") != "ok").fill_null(value=False)
    ordered = tests.sort(failed, place, "data_source", maintain_order=True)
    kind = ["feature", "explainer", "scorer", "scored_by"]
    return ordered.unique(kind, keep="first", maintain_order=True).drop("data_source")


def counted(tests: "pl.DataFrame") -> "pl.DataFrame":
    """The tests that have a score, of explanations that did not fail."""
    import polars as pl

    known = pl.col("score").is_not_null() & pl.col("score").is_not_nan()
    return tests.filter(known & (pl.col("status").is_null() | (pl.col("status") == "ok")))


def select_rows(table: "pl.DataFrame", selected: Selected) -> "pl.DataFrame":
    """The rows that count, of a table with columns explainer, scorer or method."""
    import polars as pl

    for column, wanted in zip(("explainer", "scorer", "method"), selected, strict=True):
        if wanted is not None and column in table.columns:
            table = table.filter(pl.col(column).is_in(sorted(wanted)))
    return table


def _spread(rows: "pl.DataFrame", n_features: int) -> Metric:
    """Rows of feature, value (and n) by feature."""
    import polars as pl

    known = rows.filter(
        pl.col("value").is_not_null() & pl.col("value").is_not_nan() & (pl.col("feature") < n_features)
    )
    if "n" not in known.columns:
        means = pl.col("value").cast(pl.Float64).mean(), pl.len().cast(pl.Float64).alias("n")
        known = known.group_by("feature").agg(*means)
    values, n = np.full(n_features, np.nan), np.zeros(n_features)
    at = known["feature"].to_numpy()
    values[at], n[at] = known["value"].to_numpy(), known["n"].to_numpy()
    return Metric(values, n)


def _rows(validation: Validation, name: str, selected: Selected) -> "pl.DataFrame":
    """feature, value: the rows that a metric is the mean of; with n where it is no plain mean of rows."""
    if name.startswith("score_"):
        return _of_scores(validation, name.removeprefix("score_"), selected)
    special: dict[str, Callable[[], pl.DataFrame]] = {
        "overall_score": lambda: _overall(validation, selected),
        "semsim_mean": lambda: _agreement(validation, "cosine_similarity", selected),
        "semsim_percentile": lambda: _agreement(validation, "percentile", selected),
        "feature_splitting": lambda: _nearest(validation),
        "match_rate": lambda: _matches(validation, "match_rate", selected),
        "match_percentile": lambda: _matches(validation, "match_percentile", selected),
    }
    if name in special:
        return special[name]()
    if validation.has("activation_example_similarity"):
        return _column(validation, "activation_example_similarity", OF_EXAMPLES[name])
    return _column(validation, "ex_act_pattern_matching", name)


def _column(validation: Validation, table: str, column: str) -> "pl.DataFrame":
    import polars as pl

    if not validation.has(table):
        return _none()
    return validation.table(table).select(feature=pl.col("feature_id"), value=pl.col(column)).collect()


def _none() -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(schema={"feature": pl.UInt32, "value": pl.Float64})


def _of_scores(validation: Validation, method: str, selected: Selected) -> "pl.DataFrame":
    import polars as pl

    tests = counted(select_rows(scores(validation), selected)).filter(pl.col("scored_by") == method)
    return tests.select("feature", value="score")


def _overall(validation: Validation, selected: Selected) -> "pl.DataFrame":
    """By explanation: the mean of z of fuzz and of detection, each the mean over scorers; both must be known.

    z is against all explanations of the folder, so that a value does not change with what is asked.
    """
    import polars as pl

    def by_explanation(tests: "pl.DataFrame", method: str) -> "pl.DataFrame":
        own = counted(tests).filter(pl.col("scored_by") == method)
        return own.group_by("feature", "explainer", maintain_order=True).agg(pl.col("score").mean())

    parts = []
    for method in QUALITY:
        every = by_explanation(scores(validation), method)["score"].to_numpy()
        spread = float(every.std(ddof=1)) if len(every) > 1 else 0.0
        if not spread:
            return _none()
        own = by_explanation(select_rows(scores(validation), selected), method)
        centred = (pl.col("score") - float(every.mean())) / spread
        parts.append(own.select("feature", "explainer", centred.alias(method)))
    both = parts[0].join(parts[1], on=["feature", "explainer"], maintain_order="left")
    return both.select("feature", value=pl.mean_horizontal(*QUALITY))


def _agreement(validation: Validation, field: str, selected: Selected) -> "pl.DataFrame":
    """Every explanation against each of the others of its feature."""
    import polars as pl

    if not validation.has("features"):
        return _none()
    columns = {"feature_id": "feature", "llm_explainer": "explainer", "explanation_method": "method"}
    pairs = (
        validation.table("features")
        .select([*columns, "semantic_similarity"])
        .rename(columns)
        .with_columns(pl.col("explainer", "method").cast(pl.String))
        .explode("semantic_similarity")
        .select(
            "feature",
            "explainer",
            "method",
            value=pl.col("semantic_similarity").struct.field(field),
            other=pl.col("semantic_similarity").struct.field("explainer").cast(pl.String),
        )
        .collect()
    )
    own = select_rows(pairs, selected).filter(pl.col("value").is_not_null())
    first, second = (pl.min_horizontal("explainer", "other"), pl.max_horizontal("explainer", "other"))
    return own.with_columns(a=first, b=second).unique(
        ["feature", "a", "b"], keep="first", maintain_order=True
    )


def _nearest(validation: Validation) -> "pl.DataFrame":
    """Cosine of the nearest decoder direction, of every feature that a table tells it of."""
    import polars as pl

    lists = {
        "features": ("decoder_similarity", "cosine_similarity"),
        "interfeature_similarity": ("selected_features", "decoder_similarity"),
    }
    found = [_none().cast({"value": pl.Float32})]
    for table, (column, field) in lists.items():
        if validation.has(table):
            largest = pl.col(column).list.eval(pl.element().struct.field(field)).list.max()
            frame = validation.table(table).select(feature=pl.col("feature_id"), value=largest).collect()
            found.append(frame.filter(pl.col("value").is_not_null()))
    return pl.concat(found).group_by("feature").agg(pl.col("value").max())


def _matches(validation: Validation, field: str, selected: Selected) -> "pl.DataFrame":
    """As stored for all explainers together; of some, their matches among what was tested of theirs."""
    import polars as pl

    table = "ex_act_pattern_matching"
    if not validation.has(table):
        return _none()
    if selected.explainers is None and selected.methods is None:
        return _column(validation, table, field)
    own = (
        validation.table(table)
        .select(feature=pl.col("feature_id"), of=pl.col("explainers"))
        .explode("of")
        .unnest("of")
        .rename({"explainer_name": "explainer"})
        .collect()
    )
    said = explanations(validation).unique(["feature", "explainer"], keep="first", maintain_order=True)
    own = select_rows(own.join(said, on=["feature", "explainer"], maintain_order="left"), selected)
    if field == "match_percentile":
        return own.select("feature", value=field)
    sums = own.group_by("feature").agg(pl.col("num_matches", "num_tested").sum(), n=pl.len().cast(pl.Float64))
    rate = pl.when(pl.col("num_tested") > 0).then(pl.col("num_matches") / pl.col("num_tested"))
    return sums.select("feature", "n", value=rate)
