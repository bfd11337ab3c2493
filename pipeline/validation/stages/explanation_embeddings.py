"""Every explanation once, its state, and the direction of its text."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config import Execution
from pipeline.importers.results.explanation_files import status_of, without_halves
from pipeline.importers.results.open_results import EXPLANATIONS
from pipeline.importers.results.records import Explanation, Problem
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.config import DataSource, EmbedderConfig, ExplanationEmbeddingsConfig
from pipeline.validation.sources import (
    LABEL_METHOD,
    LABELS,
    chosen_labels,
    given_files,
    is_here,
    label_files,
    leave_out,
    opened,
    read_given_table,
    sae_differs,
    source_files,
    told,
    unless_bad,
)
from pipeline.validation.vectors import embedder_files, open_vectors
from pipeline.validation.writing import write_json, write_sidecar, write_table
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.validation.names import sae_id
from saeinterp_mcp.validation.tables import EXPLANATION_EMBEDDINGS as TABLE

VECTORS = "explanations.npy"
OTHER_TEXTS = "other_texts.json"
"""{data source: [features]} whose explanation differs from the one kept for its explainer: scores of that source are
of other words."""
GIVEN = ("feature_id", "sae_id", "data_source", "llm_explainer", "explanation_text", "embedding")
Vectors = NDArray[np.float32]
Ints = NDArray[np.int64]


class ExplanationEmbeddingsStage(Frozen):
    """What the stage sees."""

    sae_id: str
    compat: bool
    n_features: int | None = None
    """Of the SAE, where it is known: explanations of other features are passed over."""
    data_sources: tuple[DataSource, ...]
    explanation_embeddings: ExplanationEmbeddingsConfig
    embedder: EmbedderConfig
    work: Path | None = Field(exclude=True)


class _Row(NamedTuple):
    """An explanation, before its vector."""

    feature_id: int
    data_source: str
    llm_explainer: str
    explanation_text: str
    explanation_method: str
    status: str
    raw_sha256: str | None
    given: int | None = None
    """Its row in the given table."""


def _words(text: str | None) -> str:
    return " ".join((text or "").split())


class _Kept:
    """One row for each feature and explainer: the first that comes."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, str], _Row] = {}
        self.others: dict[str, list[int]] = {}
        """Data source to features whose text is another than the one kept."""
        self.n_same: Counter[str] = Counter()

    def add(self, row: _Row) -> None:
        first = self.rows.setdefault((row.feature_id, row.llm_explainer), row)
        if first is row:
            return
        # a draft of an imported explanation is one line, whatever white space the file has
        if _words(first.explanation_text) == _words(row.explanation_text):
            self.n_same[row.data_source] += 1
        else:
            self.others.setdefault(row.data_source, []).append(row.feature_id)

    def told(self) -> list[str]:
        """How many a later source says otherwise."""
        return [
            f"{source}: {len(features)} explanations are other texts than those of an earlier source by the same "
            f"explainer, the first of feature {min(features)}; the earlier ones are kept"
            for source, features in sorted(self.others.items())
        ]


def _external(config: ExplanationEmbeddingsStage) -> dict[str, Path]:
    section = config.explanation_embeddings
    given = given_files({} if section.given is None else {"explanation_embeddings.parquet": section.given})
    labels = label_files(config.work) if section.labels else {}
    model = {} if section.given is not None else embedder_files(config.embedder)
    return source_files(config.data_sources, EXPLANATIONS) | given | labels | model


def _run(
    config: ExplanationEmbeddingsStage,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    notes: list[str] = []
    given = _read_given(config, notes)
    kept = _Kept()
    for row in _rows(config, given, notes):
        kept.add(row)
    rows = [kept.rows[key] for key in sorted(kept.rows)]
    wanted, vectors = _directions(config, rows, given, progress, notes)
    if len(wanted):
        array = np.lib.format.open_memmap(out / VECTORS, mode="w+", dtype=np.float32, shape=vectors.shape)
        array[:] = vectors
        array.flush()
    notes += kept.told()
    frame = _frame(config.sae_id, rows, wanted, _embeddings(rows, wanted, vectors, given))
    write_table(TABLE, frame, out / TABLE.file)
    write_json(out / OTHER_TEXTS, {name: sorted(features) for name, features in kept.others.items()})
    counts = {
        "features": len({row.feature_id for row in rows}),
        "by_explainer": dict(Counter(row.llm_explainer for row in rows)),
        "by_status": dict(Counter(row.status for row in rows)),
        "with_vector": len(wanted),
        "same_text_in_a_later_source": dict(kept.n_same),
    }
    write_sidecar(TABLE, out, config.sae_id, config.model_dump(mode="json"), counts, notes)
    n_left = sum(map(len, kept.others.values())) + sum(kept.n_same.values())
    dropped = {"of the same feature and explainer": n_left} if n_left else {}
    return Summary(n_in=len(rows) + n_left, n_kept=len(rows), dropped=dropped)


def _rows(config: ExplanationEmbeddingsStage, given: pl.DataFrame | None, notes: list[str]) -> Iterator[_Row]:
    """A given table, then data sources in the order of the config, then labels."""
    section = config.explanation_embeddings
    if given is not None:
        for i, entry in enumerate(given.select(GIVEN[0], *GIVEN[2:5]).iter_rows()):
            feature, source, explainer, text = entry
            words = text or ""
            status = status_of(words, section.runaway_characters)
            yield _Row(feature, source, explainer, words, section.explanation_method, status, None, i)
    for source in config.data_sources:
        yield from _of_source(source, config, notes)
    if section.labels:
        yield from _of_labels(config, notes)


def _of_source(source: DataSource, config: ExplanationEmbeddingsStage, notes: list[str]) -> Iterator[_Row]:
    section = config.explanation_embeddings
    results = opened(source, section.runaway_characters)
    problems: list[Problem] = []
    for one in unless_bad(results.explanations(problems), problems, section.bad_files, source):
        if not is_here(one, config.n_features, problems):
            continue
        text = _as_sae_vis_read_it(one) if config.compat else one.text
        yield _Row(
            one.feature,
            source.name,
            results.explainer,
            text,
            section.explanation_method,
            one.status,
            one.sha256,
        )
    notes += [f"{source.name}: {note}" for note in results.notes]
    notes += sae_differs(source, results, config.sae_id) + told(source, problems)


def _as_sae_vis_read_it(explanation: Explanation) -> str:
    """The file without the quotes around it: `\\"` and `\\n` of the JSON string stay."""
    return explanation.path.read_text(encoding="utf-8-sig", errors="replace").strip().strip("\"'")


def _of_labels(config: ExplanationEmbeddingsStage, notes: list[str]) -> Iterator[_Row]:
    assert config.work is not None, "ValidationRun.load sets work"
    labels, n_others = chosen_labels(config.work)
    for (feature, author), label in sorted(labels.items()):
        digest = hashlib.sha256(label.text.encode("utf-8", "surrogatepass")).hexdigest()
        status = status_of(label.text, config.explanation_embeddings.runaway_characters)
        yield _Row(feature, LABELS, author, label.text, LABEL_METHOD, status, digest)
    if n_others:
        notes.append(
            f"{LABELS}: {n_others} labels left out: their author has another one in use for the same feature"
        )


def _read_given(config: ExplanationEmbeddingsStage, notes: list[str]) -> pl.DataFrame | None:
    """The rows of this SAE of a table that was made before.

    Raises:
        BadInput: it lacks a column, or is of another SAE only.
    """
    path = config.explanation_embeddings.given
    if path is None:
        return None
    frame = read_given_table(path, GIVEN)
    try:
        frame = frame.cast({"feature_id": pl.UInt32, "embedding": pl.List(pl.Float32)})
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"{path} is no table of explanations: {str(error).splitlines()[0]}") from error
    spelled = frame["sae_id"].map_elements(sae_id, return_dtype=pl.String)
    mine = frame.filter(spelled == config.sae_id)
    if len(frame) and not len(mine):
        raise BadInput(
            f"{path} is of the SAE {spelled[0]!r}, and this run of {config.sae_id!r}; name that sae_id, or leave the "
            "table out"
        )
    if len(mine) < len(frame):
        notes.append(f"{path.name}: {len(frame) - len(mine)} rows of other SAEs left out")
    if config.n_features is not None:
        beyond = mine.filter(pl.col("feature_id") >= config.n_features)["feature_id"].unique().to_list()
        if beyond:
            bad_files = config.explanation_embeddings.bad_files
            notes.append(leave_out(path, beyond, config.n_features, bad_files))
            mine = mine.filter(pl.col("feature_id") < config.n_features)
    ordered = mine.sort("feature_id", "llm_explainer", "data_source", maintain_order=True)
    if config.compat or "status" in pl.scan_parquet(path).collect_schema():
        return ordered
    decoded = ordered["explanation_text"].map_elements(_decoded, return_dtype=pl.String)
    n = int((decoded != ordered["explanation_text"]).sum())
    if n:
        notes.append(
            f"{path.name}: {n} texts decoded, which SAE_vis had left as JSON; their vectors are of that form"
        )
    return ordered.with_columns(decoded.alias("explanation_text"))


def _decoded(text: str) -> str:
    """A JSON string that lost the quotes around it: SAE_vis stripped these and decoded nothing.

    Where the text ended with a quote of its own, that one was stripped as well, and its backslash stayed.
    """
    if "\\" not in text:
        return text
    lost = len(text) - len(text.rstrip("\\"))
    try:
        found = json.loads(f'"{text}{chr(34) if lost % 2 else ""}"', strict=False)
    except ValueError:
        return text
    return without_halves(found)


def _directions(
    config: ExplanationEmbeddingsStage,
    rows: Sequence[_Row],
    given: pl.DataFrame | None,
    progress: Progress,
    notes: list[str],
) -> tuple[Ints, Vectors]:
    """Which rows have a vector, and these, (n, d) of length 1.

    Texts that are no explanation have none, but with `compat`, where SAE_vis had embedded them.
    """
    wanted = np.array(
        [i for i, row in enumerate(rows) if row.status == "ok" or (config.compat and row.explanation_text)],
        np.int64,
    )
    if given is not None:
        return _given_directions(rows, wanted, given, notes)
    assert config.work is not None, "ValidationRun.load sets work"
    texts = open_vectors(config.work, config.embedder.model)
    if texts is None or not len(wanted):
        return np.zeros(0, np.int64), np.zeros((0, 1), np.float32)
    return wanted, texts.of([rows[i].explanation_text for i in wanted.tolist()], progress)


def _given_directions(
    rows: Sequence[_Row], wanted: Ints, given: pl.DataFrame, notes: list[str]
) -> tuple[Ints, Vectors]:
    """Vectors of the given table made 1 long; nothing else is embedded beside them."""
    places = [(i, rows[i].given) for i in wanted.tolist() if rows[i].given is not None]
    lists = given["embedding"].gather([at for _, at in places])
    widths = sorted(set(lists.list.len().drop_nulls().to_list()) - {0})
    if len(widths) > 1:
        raise BadInput(
            f"the given explanation embeddings have {len(widths)} widths ({', '.join(map(str, widths))}): they are of "
            "several models, and cannot be compared"
        )
    width = widths[0] if widths else 1
    usable = (lists.list.len() == width).fill_null(value=False).to_numpy()
    vectors = lists.filter(pl.Series(usable)).list.to_array(width).to_numpy().reshape(-1, width)
    lengths = np.linalg.norm(vectors, axis=1)
    fine = np.isfinite(lengths) & (lengths > 0)
    chosen = np.array([i for i, _ in places], np.int64)[usable][fine]
    if len(wanted) > len(chosen):
        notes.append(
            f"{len(wanted) - len(chosen)} explanations have no vector: the given table has none of them, and those of "
            "another model could not be compared"
        )
    return chosen, (vectors[fine] / lengths[fine, None]).astype(np.float32)


def _embeddings(
    rows: Sequence[_Row], wanted: Ints, vectors: Vectors, given: pl.DataFrame | None
) -> pl.Series:
    """For each row its vector as a list: that of the file, or as it stands in the given table."""
    dtype = pl.List(pl.Float32)
    if not len(wanted):
        return pl.Series([None] * len(rows), dtype=dtype)
    if given is not None:
        places = pl.Series(
            _places([rows[i].given for i in wanted.tolist()], wanted, len(rows)), dtype=pl.UInt32
        )
        return given["embedding"].gather(places)
    places = pl.Series(_places(range(len(wanted)), wanted, len(rows)), dtype=pl.UInt32)
    return pl.Series(vectors).arr.to_list().cast(dtype).gather(places)


def _places(values: Sequence[int | None], wanted: Ints, n: int) -> list[int | None]:
    """(n,) the values at the wanted rows, None elsewhere."""
    at = dict(zip(wanted.tolist(), values, strict=True))
    return [at.get(i) for i in range(n)]


def _frame(name: str, rows: Sequence[_Row], wanted: Ints, embedding: pl.Series) -> pl.DataFrame:
    columns = {field: [getattr(row, field) for row in rows] for field in _Row._fields if field != "given"}
    vector = _places(range(len(wanted)), wanted, len(rows))
    return pl.DataFrame(
        {**columns, "sae_id": [name] * len(rows), "embedding": embedding, "vector": vector},
        schema=TABLE.schema,
    )


EXPLANATION_EMBEDDINGS: Stage[Any] = Stage(
    "explanation_embeddings",
    ExplanationEmbeddingsStage,
    _run,
    external=_external,
    modules=(
        "pipeline.importers.results.explanation_files",
        "pipeline.importers.results.names",
        "pipeline.importers.results.open_results",
        "pipeline.importers.results.records",
        "pipeline.sources.text_embedding",
        "pipeline.validation.inputs",
        "pipeline.validation.sources",
        "pipeline.validation.stages.explanation_embeddings",
        "pipeline.validation.vectors",
        "pipeline.validation.writing",
        "saeinterp_mcp.validation.names",
        "saeinterp_mcp.validation.tables",
    ),
)
