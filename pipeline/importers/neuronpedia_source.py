"""Neuronpedia's export (batches of gzipped JSON lines): a sampled store; statistics and explanations go beside it.

A source is a folder that holds `features/`, `activations/` or `explanations/`, each with `batch-N.jsonl.gz` (or
unpacked), and perhaps `source.jsonl`. Samples are the distinct lists of tokens.
"""

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.importers.json_lines import BadPart, BadParts, is_number, lines_in, natural, record_in
from pipeline.importers.jsonl_source import refuse_tables, state
from pipeline.importers.published import (
    PublishedFigures,
    bare_target,
    figures_of,
    publish_figures,
    take_explanations,
)
from pipeline.importers.source import Source, SourceSection
from pipeline.importers.token_examples import TokenExamples
from saeinterp_mcp.analysis.text import visible
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange import neuronpedia
from saeinterp_mcp.labels.exchange.records import BadLine, Options

PARTS = ("features", "activations", "explanations")
SUFFIXES = (".jsonl", ".jsonl.gz")
SAMPLED = (
    "only the examples that were published are there; rates and means of all text cannot be known from them"
)
ROUNDED = 0.01
"""What a published maximum may differ from that of its values: both are rounded."""


class Place(NamedTuple):
    """One source of one model."""

    folder: Path
    model: str
    source: str

    @property
    def name(self) -> str:
        """As `--hookpoint` takes it."""
        return f"{self.model}/{self.source}"

    def files(self, part: str) -> list[Path]:
        """Its batches, in the order of their numbers."""
        return _batches(self.folder / part)


class Opened(NamedTuple):
    """What was read."""

    place: Place
    examples: TokenExamples
    figures: PublishedFigures
    n_features: int
    notes: tuple[str, ...]


def open_neuronpedia(section: SourceSection) -> Source:
    """One source of an export, read once.

    Raises:
        BadInput: there is none, or several and nobody said which; or a bad record, with its file, line and reason.
    """
    opened = _opened(section)
    place, spool = opened.place, opened.examples.spool
    return Source(
        n_rows=spool.n_rows,
        n_features=opened.n_features,
        pieces=spool.pieces(),
        files={
            **{name: place.folder / name for name in ("source.jsonl",) if (place.folder / name).is_file()},
            **{f"{part}/{path.name}": path for part in PARTS for path in place.files(part)},
        },
        tables=lambda: spool.tables(place.folder),
        token_names=spool.token_names,
        coverage="sampled",
        notes=opened.notes,
        model={"name": place.model},
        sae={"name": place.source},
    )


def after_neuronpedia(section: SourceSection, store: Path) -> tuple[str, ...]:
    """Explanations become drafts of labels, figures a table beside the store."""
    opened = _opened(section)
    place = opened.place
    return (
        *take_explanations(store, place.files("explanations"), section.bad_files),
        *publish_figures(store, opened.figures, place.name, f"neuronpedia:{place.name}"),
    )


def _opened(section: SourceSection) -> Opened:
    refuse_tables(section)
    place = find_place(section.path, section.hookpoint)
    states = tuple(state(path) for part in PARTS for path in place.files(part))
    return _read(section, place, states)


def find_place(path: Path, wanted: str | None) -> Place:
    """The source that is meant.

    Raises:
        BadInput: none is there, or not that one, or several.
    """
    if not path.is_dir():
        raise BadInput(f"{path} is no folder; a Neuronpedia export is one, with {', '.join(PARTS)} in it")
    folders = sorted({found.parent for part in PARTS for found in [path / part, *path.glob(f"**/{part}")]})
    places = [place for folder in folders if (place := _place(folder)) is not None]
    if not places:
        raise BadInput(
            f"{path} holds no source of Neuronpedia: a folder with {'/, '.join(PARTS)}/ and batches (.jsonl.gz) in them"
        )
    if wanted is None:
        if len(places) == 1:
            return places[0]
        raise BadInput(
            f"{path} holds {len(places)} sources; choose one with --hookpoint MODEL/SOURCE; "
            + _listed(places)
        )
    for place in places:
        if wanted in (place.name, place.source):
            return place
    raise BadInput(f"{path} holds no source {wanted!r}; {_listed(places)}")


def _listed(places: list[Place]) -> str:
    """Their names; they are a stranger's."""
    more = f" and {len(places) - 8} more" if len(places) > 8 else ""
    return "there are: " + ", ".join(visible(place.name[:200]) for place in places[:8]) + more


def _place(folder: Path) -> Place | None:
    """The source that the records of a folder are of; None: there is no record that says."""
    for part in PARTS:
        for path in _batches(folder / part):
            for _, line in lines_in(path, BadParts("skip")):
                try:
                    values = record_in(line)
                except BadPart:
                    continue
                names = values.get("modelId"), values.get("layer")
                if all(isinstance(name, str) and name for name in names):
                    return Place(folder, str(names[0]), str(names[1]))
    return None


def _batches(folder: Path) -> list[Path]:
    found = (
        [p for p in folder.glob("*") if p.is_file() and p.name.endswith(SUFFIXES)] if folder.is_dir() else []
    )
    return sorted(
        found, key=lambda p: [int(d) if d.isdigit() else 0 for d in re.split(r"(\d+)", p.name)] + [0]
    )


@lru_cache(maxsize=1)
def _read(section: SourceSection, place: Place, states: Any) -> Opened:
    reader = _Reader(section, place)
    reader.read_figures()
    reader.read_activations()
    return reader.close()


class _Reader:
    """Reads one source, batch by batch."""

    def __init__(self, section: SourceSection, place: Place) -> None:
        self.section, self.place = section, place
        self.bad = BadParts(section.bad_files)
        self.examples, self.figures = TokenExamples(section.negatives), PublishedFigures()
        self.said_width = _width_of(place)
        self.limit = section.n_features or self.said_width
        self.firing: set[int] = set()
        self.highest = -1

    def read_figures(self) -> None:
        """The features' own records."""
        for path, number, values in self._records("features"):
            try:
                row = figures_of(values)
                # the share may not be null there: beside a maximum that is, 0 fills the column and says nothing
                if row["frac_nonzero"] == 0 and values.get("maxActApprox", 0) is None:
                    row["frac_nonzero"] = None
                self.figures.add(self._feature(values), row)
            except BadPart as error:
                self.bad.met(path, f"line {number}", error)

    def read_activations(self) -> None:
        """The examples."""
        for path, number, values in self._records("activations"):
            try:
                feature = self._feature(values)
                if self.examples.add(feature, values.get("tokens"), self._checked(values), number):
                    self.firing.add(feature)
                self.examples.add_bin(*(values.get(f"bin{name}") for name in ("Min", "Max", "Contains")))
            except BadPart as error:
                self.bad.met(path, f"line {number}", error)

    def close(self) -> Opened:
        """All that was read, and what there is to tell.

        Raises:
            BadInput: there is no example.
        """
        for path, number, values in self._records("explanations"):
            try:
                self._feature(values)
            except BadPart as error:
                self.bad.met(path, f"line {number}", error)
        n_features = self.limit or max(self.figures.highest, self.highest) + 1
        n_left = self._check_explanations(n_features)
        if self.examples.is_empty:
            raise BadInput(f"{self.place.folder} holds no example that can be taken in")
        notes = [*self.examples.close(), SAMPLED]
        if n := self.figures.unknown_rate(self.firing.__contains__):
            notes.append(f"frac_nonzero is 0 of {n} features that have activations: taken for not known")
        if self.limit is None:
            notes.append(
                f"n_features is the highest index there is and one ({n_features}); --n-features says better"
            )
        left = (f"left out, explanation: {n_left}",) if n_left else ()
        return Opened(self.place, self.examples, self.figures, n_features, (*notes, *self.bad.notes(), *left))

    def _records(self, part: str) -> Iterator[tuple[Path, int, dict[str, Any]]]:
        for path in self.place.files(part):
            for number, line in lines_in(path, self.bad):
                try:
                    yield path, number, record_in(line)
                except BadPart as error:
                    self.bad.met(path, f"line {number}", error)

    def _feature(self, values: dict[str, Any]) -> int:
        if (values.get("modelId"), values.get("layer")) != (self.place.model, self.place.source):
            of = f"{values.get('modelId')}/{values.get('layer')}"
            raise BadPart("of another source", f"it is of {of}, not of {self.place.name}")
        feature = natural(values.get("index"), "index")
        if self.limit is not None and feature >= self.limit:
            raise BadPart("feature out of range", f"feature {feature} is not in 0 to {self.limit - 1}")
        self.highest = max(self.highest, feature)
        return feature

    def _checked(self, values: dict[str, Any]) -> list[float]:
        """The values, if what the record says of them is so."""
        found, said = values.get("values"), values.get("maxValue")
        if not isinstance(found, list) or not found or not set(map(type, found)) <= {int, float}:
            raise BadPart("values are no numbers", "values is no list of numbers")
        if isinstance(tokens := values.get("tokens"), list) and len(tokens) != len(found):
            raise BadPart("tokens and values", f"{len(tokens)} tokens and {len(found)} values")
        at = values.get("maxValueTokenIndex")
        if at is not None and (type(at) is not int or not 0 <= at < len(found)):
            raise BadPart(
                "maxValueTokenIndex", f"maxValueTokenIndex {str(at)[:20]} is no place in {len(found)} values"
            )
        highest = max(found)
        if said is not None and not _alike(said, highest):
            raise BadPart("maxValue", f"maxValue is {str(said)[:40]}, the largest value {highest}")
        if at is not None and not _alike(found[at], highest):
            why = f"the value at maxValueTokenIndex is {found[at]}, the largest {highest}"
            raise BadPart("maxValueTokenIndex", why)
        return found

    def _check_explanations(self, n_features: int) -> int:
        """Meet every bad one before anything is published; how many there are."""
        target = bare_target(self.section.name, "", n_features)
        n = 0
        for path in self.place.files("explanations"):
            try:
                for found in neuronpedia.read(path, target, Options()):
                    if isinstance(found, BadLine):
                        n += 1
                        if not self.bad.skips:
                            self.bad.met(path, found.where, BadPart("explanation", found.why))
            except BadInput:
                if not self.bad.skips:
                    raise
        return n


def _alike(one: Any, other: Any) -> bool:
    return is_number(one) and is_number(other) and abs(one - other) <= ROUNDED * (1 + abs(other))


def _width_of(place: Place) -> int | None:
    """Features of the SAE, where the record of the source has SAELens' config."""
    path = place.folder / "source.jsonl"
    for _, line in lines_in(path, BadParts("skip")) if path.is_file() else ():
        try:
            values = record_in(line)
        except BadPart:
            continue
        config = values.get("saelensConfig")
        if isinstance(config, str):
            try:
                config = json.loads(config)
            except ValueError:
                config = None
        if values.get("id") in (place.source, None) and isinstance(config, dict):
            width = config.get("d_sae")
            if type(width) is int and width > 0:
                return width
    return None
