"""The folders and files that explanations and scores come from, as stages read them: opened, hashed, problems told."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import polars as pl

from pipeline.importers.results.open_results import EXPLANATIONS, RUN_CONFIG, SCORES, open_results
from pipeline.importers.results.records import RUNAWAY, Explanation, Problem, Results, ScoreFile
from pipeline.validation.config import BadFiles, DataSource
from pipeline.validation.inputs import label_file, test_file
from saeinterp_mcp.errors import BadInput

LABELS = "labels"
"""`data_source` of labels and of our own tests."""
LABEL_METHOD = "label"
_STATUS_ORDER = ("supported", "draft", "unclear")
_BY_NAME = re.compile(r"(?P<explainer>.+)_e-(?P<scorer>.+)_s")
Item = TypeVar("Item")


def opened(source: DataSource, runaway_characters: int = RUNAWAY) -> Results:
    """The folder of a source.

    Raises:
        BadInput: there is nothing in it, or nobody says who explained or scored.
    """
    return open_results(
        source.path, source.llm_explainer, source.llm_scorer, source.hookpoint, runaway_characters
    )


def source_files(sources: Sequence[DataSource], part: str) -> dict[str, Path]:
    """What a stage names as `external`: the files of one part (`explanations`, `scores`) of every source."""
    assert part in (EXPLANATIONS, SCORES), "a source has no other parts"
    return {
        f"{source.name}/{name}": path
        for source in sources
        for name, path in opened(source).files.items()
        if name == RUN_CONFIG or name.startswith(f"{part}/")
    }


def label_files(work: Path | None, *, tests: bool = False) -> dict[str, Path]:
    """The labels of a run, and the tests of them: what `inputs.dump_inputs` wrote."""
    assert work is not None, "ValidationRun.load sets work"
    wanted = [label_file(work), test_file(work)] if tests else [label_file(work)]
    return {f"inputs/{path.name}": path for path in wanted if path.is_file()}


def given_files(files: Mapping[str, Path]) -> dict[str, Path]:
    """Named files of the config, which have to be there.

    Raises:
        BadInput: one is not.
    """
    for path in files.values():
        if not path.is_file():
            raise BadInput(f"{path} does not exist or is not a file")
    return dict(files)


def sae_differs(source: DataSource, results: Results, sae_id: str) -> list[str]:
    """A warning where a run is of another SAE than the tables, by its own account."""
    if results.sae_id in (None, sae_id):
        return []
    return [f"{source.name}: its run_config.json is of {results.sae_id!r}, and the tables are of {sae_id!r}"]


def is_here(one: Explanation | ScoreFile, n_features: int | None, problems: list[Problem]) -> bool:
    """Whether a file is of a feature that the SAE has; told as a problem where it is not.

    `n_features` is None where nobody says how many there are.
    """
    if n_features is None or one.feature < n_features:
        return True
    problems.append(Problem(one.path, "foreign", not_here(one.feature, n_features)))
    return False


def not_here(feature: int, n_features: int) -> str:
    """What is wrong with a feature that the SAE does not have."""
    return f"feature {feature} is not in the SAE, which by its store or weights has 0 to {n_features - 1}"


def leave_out(path: Path, features: Sequence[int], n_features: int, bad_files: BadFiles) -> str:
    """What to tell of features of a file made before that the SAE does not have.

    Raises:
        BadInput: with `bad_files: stop`.
    """
    why = not_here(min(features), n_features)
    if bad_files == "stop":
        raise BadInput(f"{path}: {why}. Mend it, or leave such features out with `bad_files: skip`")
    return f"{path.name}: {len(features)} features left out, the first: {why}"


def unless_bad(
    items: Iterable[Item], problems: list[Problem], bad_files: BadFiles, source: DataSource
) -> Iterator[Item]:
    """The items of a folder, as long as no file was passed over that should stop the run.

    Raises:
        BadInput: a bad file, with `bad_files: stop`.
    """
    for item in items:
        _stop_at(problems, bad_files, source)
        yield item
    _stop_at(problems, bad_files, source)


def _stop_at(problems: Sequence[Problem], bad_files: BadFiles, source: DataSource) -> None:
    if problems and bad_files == "stop":
        raise BadInput(
            f"{problems[0].path}: {problems[0].kind}: {problems[0].reason}. Mend it, or pass over bad files with "
            f"`bad_files: skip` (data source {source.name})"
        )


def told(source: DataSource, problems: Sequence[Problem]) -> list[str]:
    """What was passed over, a sentence a kind: how many, and the first of them."""
    counts = Counter(problem.kind for problem in problems)
    first = {problem.kind: problem for problem in reversed(problems)}
    return [
        f"{source.name}: {n} {kind} file{'s' if n > 1 else ''} passed over, the first "
        f"{_name(source, first[kind].path)}: {first[kind].reason}"
        for kind, n in sorted(counts.items())
    ]


def _name(source: DataSource, path: Path) -> str:
    return path.relative_to(source.path).as_posix() if path.is_relative_to(source.path) else path.name


class Names(NamedTuple):
    """Who explained and who scored."""

    explainer: str
    scorer: str | None


def explainer_names(
    sources: Sequence[DataSource], table: Path | None, source: str, scorer: str | None
) -> Names:
    """The models of a `scores.json`, which names its scorer at most.

    A data source of that name says both. Else its prefix (`X` of `X_e-Y_s`) is that of a data source, or of one in a
    given table of explanations, whose explainer it shares. Else it is called as the prefix is.

    Raises:
        BadInput: `source` has no such prefix and is no data source.
    """
    match = _BY_NAME.fullmatch(source)
    if match is not None and scorer is None:
        scorer = match["scorer"]
    known = {one.name: opened(one).explainer for one in sources}
    if table is not None:
        pairs = read_given_table(table, ("data_source", "llm_explainer")).unique().sort("data_source")
        known = {**dict(pairs.iter_rows()), **known}
    for one in sources:
        if one.name == source and one.llm_scorer is not None:
            scorer = one.llm_scorer
    if source in known:
        return Names(known[source], scorer)
    if match is None:
        raise BadInput(
            f"nobody says who explained what the scores of {source!r} are of: list it under data_sources with "
            "llm_explainer, or call it X_e-Y_s"
        )
    prefix = f"{match['explainer']}_e-"
    return Names(
        next((known[name] for name in sorted(known) if name.startswith(prefix)), match["explainer"]), scorer
    )


def read_given_table(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of an `explanation_embeddings.parquet` that was made before, categories as strings.

    Raises:
        BadInput: it is missing, damaged, or lacks a column.
    """
    try:
        frame = pl.scan_parquet(path)
        lacking = [name for name in columns if name not in frame.collect_schema()]
        if lacking:
            raise BadInput(
                f"{path} has no column {lacking[0]!r}; a table of explanations has {', '.join(columns)}"
            )
        return frame.select(columns).with_columns(pl.col(pl.Categorical).cast(pl.String)).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadInput(f"{path} is no table of explanations: {str(error).splitlines()[0]}") from error


class LabelRecord(NamedTuple):
    """A label in use."""

    feature: int
    author: str
    text: str
    label_id: int
    status: str
    made_at: str | None


class HeldOut(NamedTuple):
    """A held-out test of the words of a label."""

    feature: int
    author: str
    text: str
    label_id: int
    method: str
    judge: str | None
    score: float | None
    low: float | None
    high: float | None
    n: int
    n_failed: int


def chosen_labels(work: Path) -> tuple[dict[tuple[int, str], LabelRecord], int]:
    """For each feature and author the label that speaks: supported before draft before unclear, then the newest.

    Also how many others there are.
    """
    chosen: dict[tuple[int, str], LabelRecord] = {}
    n_others = 0
    for label in (LabelRecord(**entry) for entry in _lines(label_file(work))):
        before = chosen.get((label.feature, label.author))
        n_others += before is not None
        if before is None or _precedence(label) > _precedence(before):
            chosen[label.feature, label.author] = label
    return chosen, n_others


def tests_of(work: Path) -> list[HeldOut]:
    """Held-out tests of labels, in the order of the file."""
    return [HeldOut(**entry) for entry in _lines(test_file(work))]


def _precedence(label: LabelRecord) -> tuple[int, str, int]:
    rank = _STATUS_ORDER.index(label.status) if label.status in _STATUS_ORDER else len(_STATUS_ORDER)
    return -rank, label.made_at or "", label.label_id


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
