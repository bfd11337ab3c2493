"""Rows of explanations, scores and neighbours that other people's runs bring, joined with those already beside a
store."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import polars as pl

from pipeline.importers.results.names import named
from pipeline.importers.results.neighbours import MEASURES, MOST, neighbour_files, read_neighbours
from pipeline.importers.results.records import LEAK, Explanation, Problem, Results, ScoreFile
from pipeline.validation.config import BadFiles, DataSource
from pipeline.validation.publish import IMPORTED
from pipeline.validation.score_statistics import statistics_of
from pipeline.validation.sources import told
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.validation.folder import Validation
from saeinterp_mcp.validation.tables import EXPLANATION_EMBEDDINGS, NEIGHBOURS, SCORES, Table

TESTED = ("fuzz", "detection", "simulation", "embedding", "surprisal", "intruder")
"""Methods that test an explanation; example_embedding of delphi has no explanation in it."""
ATTACHED = (EXPLANATION_EMBEDDINGS, SCORES, NEIGHBOURS)
OF_ONE = ("feature_id", "llm_explainer")
OF_FILE = {
    EXPLANATION_EMBEDDINGS.name: ("feature_id",),
    SCORES.name: ("feature_id", "method"),
    NEIGHBOURS.name: ("measure",),
}
"""What tells the rows of one file of a source from those of its others."""
UNREADABLE = ("truncated", "foreign", "empty")
"""Kinds of problems of a file that is there and says nothing."""
Item = TypeVar("Item")


class Read(NamedTuple):
    """What one source brings."""

    source: DataSource
    results: Results | None
    """None: neighbours only."""
    explanations: pl.DataFrame
    scores: pl.DataFrame
    neighbours: pl.DataFrame
    problems: tuple[Problem, ...]
    notes: dict[str, tuple[str, ...]]
    """Table to what its reader must know, beginning with the source's name where it is about this source."""


def read_source(
    source: DataSource, results: Results | None, sae_id: str, n_features: int, bad_files: BadFiles
) -> Read:
    """Read every file of a source once, one at a time.

    Raises:
        BadInput: a bad file, where these stop the import.
    """
    problems: list[Problem] = []
    about = {"sae_id": sae_id, "data_source": source.name}
    explanations: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    notes = [] if results is None else [f"{source.name}: {note}" for note in results.notes]
    n_plain = 0
    if results is not None:
        who = {**about, "llm_explainer": results.explainer}
        for one in _unless_bad(results.explanations(problems), problems, bad_files):
            if _is_here(one, n_features, problems):
                explanations.append({**who, **_explanation(one, results.method)})
                n_plain += one.plain
        who["llm_scorer"] = results.scorer or ""
        for file in _unless_bad(results.scores(problems), problems, bad_files):
            if file.method in TESTED and _is_here(file, n_features, problems):
                scores.append({**who, **_score(file)})
    about_neighbours: list[str] = []
    neighbours = _neighbours(source, results, n_features, about, problems, about_neighbours)
    _stop_at(problems, bad_files)
    if n_plain:
        notes.append(f"{source.name}: {n_plain} explanations are no JSON and were taken as plain text")
    return Read(
        source,
        results,
        pl.DataFrame(explanations, schema=EXPLANATION_EMBEDDINGS.schema),
        pl.DataFrame(scores, schema=SCORES.schema),
        neighbours,
        tuple(problems),
        {
            EXPLANATION_EMBEDDINGS.name: (*notes, *told(source, problems)),
            SCORES.name: (*notes, *told(source, problems), *([LEAK] if scores else [])),
            NEIGHBOURS.name: tuple(about_neighbours),
        },
    )


class Joined(NamedTuple):
    """What goes beside the store."""

    tables: dict[str, pl.DataFrame]
    notes: dict[str, list[str]]
    """Table to what its reader must know."""
    made: tuple[str, ...]
    """Tables that `validate` made and that stay as they are."""


def joined(reads: Sequence[Read], beside: Validation | None) -> Joined:
    """Rows that earlier imports brought stay, but those of sources that are read again.

    Of these too, what a file said that cannot be read now: a source that got worse removes nothing.
    """
    imported: Mapping[str, Any] = {} if beside is None else beside.manifest.made_by.get(IMPORTED, {})
    made = tuple(
        t.name for t in ATTACHED if beside is not None and beside.has(t.name) and t.name not in imported
    )
    names = [read.source.name for read in reads]
    tables: dict[str, pl.DataFrame] = {}
    told_of: dict[str, list[str]] = {}
    for table in ATTACHED:
        new = [_part(read, table) for read in reads]
        old = _earlier(table, beside, names) if table.name in imported else table.empty()
        saved = [_saved(read, table, beside) if table.name in imported else table.empty() for read in reads]
        if table.name in made or (not len(old) and not any(map(len, [*saved, *new]))):
            continue
        frame = pl.concat([old, *saved, *new])
        again = tuple(f"{name}: " for name in names)
        notes = [one for one in imported.get(table.name, ()) if not one.startswith(again)]
        notes += [note for read in reads for note in read.notes[table.name]]
        notes += [
            f"{name}: {len(rows)} row{'s' if len(rows) > 1 else ''} of an earlier import kept, as their files "
            "cannot be read now"
            for name, rows in zip(names, saved, strict=True)
            if len(rows)
        ]
        tables[table.name] = _kept_once(frame, notes) if table is EXPLANATION_EMBEDDINGS else frame
        told_of[table.name] = sorted(set(notes))
    return Joined(tables, told_of, made)


def _is_here(one: Explanation | ScoreFile, n_features: int, problems: list[Problem]) -> bool:
    if one.feature < n_features:
        return True
    why = f"feature {one.feature} is not in the store, which has 0 to {n_features - 1}"
    problems.append(Problem(one.path, "foreign", why))
    return False


def _explanation(one: Explanation, method: str) -> dict[str, Any]:
    return {
        "feature_id": one.feature,
        "explanation_text": one.text,
        "explanation_method": method,
        "status": one.status,
        "raw_sha256": one.sha256,
    }


def _score(file: ScoreFile) -> dict[str, Any]:
    statistics = statistics_of(file)
    return {
        **statistics._asdict(),
        "quantiles": list(statistics.quantiles),
        "feature_id": file.feature,
        "method": file.method,
        "held_out": "leaked",
        "raw_sha256": file.sha256,
    }


def _neighbours(
    source: DataSource,
    results: Results | None,
    n_features: int,
    about: Mapping[str, str],
    problems: list[Problem],
    notes: list[str],
) -> pl.DataFrame:
    frames = [NEIGHBOURS.empty()]
    hookpoint = source.hookpoint or (results.hookpoint if results is not None else None)
    for measure, path in neighbour_files(source.path, hookpoint or "").items():
        found = read_neighbours(path, n_features)
        if isinstance(found, Problem):
            problems.append(found)
            continue
        literals = {**about, "measure": measure}
        frame = found.frame.with_columns(
            *(
                pl.lit(value, dtype=pl.String).cast(pl.Categorical).alias(name)
                for name, value in literals.items()
            )
        )
        frames.append(frame.select(list(NEIGHBOURS.schema)))
        if found.n_self:
            notes.append(
                f"{source.name}: {found.n_self} features were their own {measure} neighbours; left out"
            )
        if found.n_cut:
            notes.append(f"{source.name}: {found.n_cut} {measure} neighbours after the first {MOST} left out")
    return pl.concat(frames)


def _part(read: Read, table: Table) -> pl.DataFrame:
    parts = {EXPLANATION_EMBEDDINGS.name: read.explanations, SCORES.name: read.scores}
    return parts.get(table.name, read.neighbours)


def _earlier(table: Table, beside: Validation | None, names: Sequence[str]) -> pl.DataFrame:
    assert beside is not None, "what was imported is in a folder"
    return beside.table(table.name).filter(~pl.col("data_source").cast(pl.String).is_in(names)).collect()


def _saved(read: Read, table: Table, beside: Validation | None) -> pl.DataFrame:
    """Earlier rows of a source, of files that cannot be read now."""
    assert beside is not None, "what was imported is in a folder"
    bad = [problem.path for problem in read.problems if problem.kind in UNREADABLE]
    if table is NEIGHBOURS:
        measures = [one for one in MEASURES if any(path.name.endswith(f"-{one}.json") for path in bad)]
        lost = pl.col("measure").cast(pl.String).is_in(measures)
    else:
        lost = pl.col("feature_id").is_in([named(path, path.name).feature for path in bad])
    earlier = beside.table(table.name).filter(lost, pl.col("data_source").cast(pl.String) == read.source.name)
    of_file = [pl.col(name).cast(pl.String) for name in OF_FILE[table.name]]
    return earlier.collect().join(_part(read, table), on=of_file, how="anti")


def _kept_once(frame: pl.DataFrame, notes: list[str]) -> pl.DataFrame:
    """Every text of an explainer about a feature once: runs that only score hold copies of another run's."""
    kept = frame.unique([*OF_ONE, "explanation_text"], keep="first", maintain_order=True)
    n_more = len(kept) - len(kept.unique(OF_ONE))
    if n_more:
        notes.append(
            f"{n_more} explanations are other texts than an earlier source has of the same feature and explainer; both "
            "are kept, and a score counts for the text of its own source"
        )
    return kept


def _unless_bad(items: Iterable[Item], problems: list[Problem], bad_files: BadFiles) -> Iterator[Item]:
    """The items, as long as no bad file came up that should stop the import.

    Raises:
        BadInput: one did.
    """
    for item in items:
        _stop_at(problems, bad_files)
        yield item
    _stop_at(problems, bad_files)


def _stop_at(problems: Sequence[Problem], bad_files: BadFiles) -> None:
    if problems and bad_files == "stop":
        one = problems[0]
        raise BadInput(
            f"{one.path}: {one.kind}: {one.reason}. Mend it, or pass over bad files: --bad-files skip"
        )
