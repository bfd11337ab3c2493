"""Activations as JSON lines beside a list of prompts (SAE_vis, script 0a): a sampled store.

A line is a (feature, prompt): `{"index": "12", "dataSetPromptId": 3, "sparseValues": [[position, activation], ...]}`.
Every prompt of prompts.json is a sample, in its order, so that a sample's number is the prompt's.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.importers.json_lines import (
    FLOAT32_MAX,
    BadPart,
    BadParts,
    document,
    lines_in,
    natural,
    record_in,
    strings,
)
from pipeline.importers.prompt_spool import PromptSpool, Records
from pipeline.importers.source import Source, SourceSection
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.loaders.base import to_float32

ACTIVATIONS, PROMPTS = "activations.jsonl", "prompts.json"
LINES_AT_ONCE = 8_192


class Line(NamedTuple):
    """A line that is a record."""

    number: int
    feature: int
    prompt: int
    pairs: list[Any]


class Opened(NamedTuple):
    """What was read."""

    spool: PromptSpool
    n_features: int
    notes: tuple[str, ...]


def open_jsonl(section: SourceSection) -> Source:
    """The lines and their prompts, read once.

    Raises:
        BadInput: no prompts; or a bad line, with its number and reason (with `bad_files: skip` they are counted).
    """
    refuse_tables(section)
    activations, prompts = _files(section)
    files = {activations.name: activations, prompts.name: prompts}
    opened = _read(section, activations, prompts, tuple(state(path) for path in files.values()))
    spool = opened.spool
    return Source(
        n_rows=spool.n_rows,
        n_features=opened.n_features,
        pieces=spool.pieces(),
        files=files,
        tables=lambda: spool.tables(prompts),
        token_names=spool.token_names,
        coverage="sampled",
        notes=opened.notes,
        provenance={"n_prompts": spool.n_prompts, "n_records": spool.n_records},
    )


def refuse_tables(section: SourceSection) -> None:
    """Formats that bring their tokens take no tables and no vocabulary."""
    for name in ("metadata", "vocab", "weapon_vocab"):
        if getattr(section, name) is not None:
            option = "--" + name.replace("_", "-")
            raise BadInput(f"{section.format} has tokens of its own; leave {option} out")


def state(path: Path) -> tuple[str, int, int]:
    """What tells whether a file changed since it was read."""
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns


def _files(section: SourceSection) -> tuple[Path, Path]:
    """The lines and the prompts."""
    activations = section.path
    if activations.is_dir():
        activations = _either(activations / ACTIVATIONS, "the activations")
    prompts = section.prompts
    if prompts is None:
        prompts = _either(activations.parent / PROMPTS, "the prompts; or name them with --prompts")
    elif not prompts.is_file():
        raise BadInput(f"{prompts} does not exist or is no file")
    return activations, prompts


def _either(path: Path, what: str) -> Path:
    for found in (path, path.with_name(path.name + ".gz")):
        if found.is_file():
            return found
    raise BadInput(f"{path} (or {path.name}.gz) does not exist; it must hold {what}")


@lru_cache(maxsize=1)
def _read(section: SourceSection, activations: Path, prompts: Path, states: Any) -> Opened:
    bad, spool = BadParts(section.bad_files), PromptSpool()
    notes = [*_read_prompts(prompts, spool, bad)]
    lines = _Lines(section, activations, spool, bad)
    lines.read()
    n_features = section.n_features or spool.highest_feature() + 1
    if not spool.n_records:
        raise BadInput(f"{activations} holds no line that can be taken in")
    if section.n_features is None:
        notes.append(
            f"n_features is the highest feature there is and one ({n_features}); --n-features says better"
        )
    notes += [
        f"{spool.n_records} lines of a (feature, prompt), {lines.n_silent} of them without an activation",
        f"tokens: {spool.spelled_as()}",
        "only chosen prompts are there; rates and means of all text cannot be known from them",
        *bad.notes(),
    ]
    return Opened(spool, n_features, tuple(notes))


def _read_prompts(path: Path, spool: PromptSpool, bad: BadParts) -> Iterator[str]:
    """Gather them; what there is to tell."""
    content = document(path)
    if not isinstance(content, list) or not content:
        raise BadInput(f"{path} must hold a JSON list of prompts, each a list of token strings")
    for number, tokens in enumerate(content):
        try:
            if not strings(tokens, "the prompt"):
                raise BadPart("prompts without tokens", "has no tokens")
        except BadPart as error:
            bad.met(path, f"prompt {number}", error)
            tokens = [""]  # an empty one keeps the place, so that the next ones keep their numbers
        spool.new_prompt(tokens)
    if n := sum(bad.counts.values()):
        yield f"{n} prompts that could not be read stand as one empty token each, so that the others keep their numbers"
        bad.counts.clear()


class _Lines:
    """Reads lines in blocks: checked together where all is well, one by one where it is not."""

    def __init__(self, section: SourceSection, path: Path, spool: PromptSpool, bad: BadParts) -> None:
        self.path, self.spool, self.bad = path, spool, bad
        self.n_features, self.negatives = section.n_features, section.negatives
        self.lengths = np.asarray(spool.lengths, np.int64)
        self.n_silent = 0

    def read(self) -> None:
        """All of them, each (feature, prompt) once."""
        lines = self._lines()
        while block := list(islice(lines, LINES_AT_ONCE)):
            if self._add(block):
                continue
            for line in block:
                try:
                    self._check(line)
                    added = self._add([line])
                    assert added, f"line {line.number} was found good by itself, but not in its block"
                except BadPart as error:
                    self.bad.met(self.path, f"line {line.number}", error)
        self._refuse_repeats()

    def _lines(self) -> Iterator[Line]:
        for number, content in lines_in(self.path, self.bad):
            try:
                values = record_in(content)
                feature = natural(values.get("index"), "index")
                if self.n_features is not None and feature >= self.n_features:
                    raise BadPart(
                        "feature out of range", f"feature {feature} is not in 0 to {self.n_features - 1}"
                    )
                prompt = natural(values.get("dataSetPromptId"), "dataSetPromptId")
                if prompt >= len(self.lengths):
                    why = f"prompt {prompt} is not in 0 to {len(self.lengths) - 1}"
                    raise BadPart("prompt that does not exist", why)
                pairs = values.get("sparseValues")
                if not isinstance(pairs, list):
                    raise BadPart("no sparseValues", "sparseValues is missing or no list")
                yield Line(number, feature, prompt, pairs)
            except BadPart as error:
                self.bad.met(self.path, f"line {number}", error)

    def _add(self, block: list[Line]) -> bool:
        """Append the lines, unless something in them is wrong."""
        found = _pairs(list(chain.from_iterable(line.pairs for line in block)))
        if found is None:
            return False
        n = np.array([len(line.pairs) for line in block], np.int64)
        position, value = found
        prompt = np.array([line.prompt for line in block], np.int64)
        if not self._fits(
            np.repeat(np.arange(len(block)), n), np.repeat(self.lengths[prompt], n), position, value
        ):
            return False
        kept = value != 0
        n = np.bincount(np.repeat(np.arange(len(block)), n)[kept], minlength=len(block))
        self.n_silent += int((n == 0).sum())
        features, places = ([getattr(line, name) for line in block] for name in ("feature", "number"))
        self.spool.add(Records(features, prompt, n, position[kept].astype(np.int64), value[kept], places))
        return True

    def _fits(
        self, line: NDArray[Any], length: NDArray[Any], position: NDArray[Any], value: NDArray[Any]
    ) -> bool:
        if not len(position):
            return True
        whole = (position >= 0) & (position < length) & (position == np.floor(position))
        if not (whole.all() and np.isfinite(value).all() and (self.negatives or (value >= 0).all())):
            return False
        key = line * (int(length.max()) + 1) + position.astype(np.int64)
        return len(np.unique(key)) == len(key)

    def _check(self, line: Line) -> None:
        """Say what is wrong with a line, if anything is."""
        length, seen = int(self.lengths[line.prompt]), set[int]()
        for pair in line.pairs:
            if not (isinstance(pair, list) and len(pair) == 2 and all(type(v) in (int, float) for v in pair)):
                raise BadPart("pair that is none", f"{str(pair)[:60]} is no [position, activation]")
            position, value = pair
            if not 0 <= position < length or position != int(position):
                why = (
                    f"position {str(position)[:40]} is not in prompt {line.prompt}, which has {length} tokens"
                )
                raise BadPart("position outside its prompt", why)
            if position in seen:
                raise BadPart("position twice", f"position {position} is there twice")
            seen.add(int(position))
            if not abs(value) <= FLOAT32_MAX:  # nor is NaN
                raise BadPart(
                    "activation not finite", f"activation {str(value)[:40]} is not finite in float32"
                )
            if value < 0 and not self.negatives:
                raise BadPart(
                    "negative activation",
                    f"activation {value} is negative (--negatives drop|abs handles those)",
                )

    def _refuse_repeats(self) -> None:
        found = self.spool.repeats()
        for first, again in zip(found.first.tolist(), found.again.tolist(), strict=True):
            why = f"its feature and prompt stood in line {self.spool.place_of(first)}"
            where = f"line {self.spool.place_of(again)}"
            self.bad.met(self.path, where, BadPart("feature and prompt twice", why))
        self.spool.drop(found.again)


def _pairs(flat: list[Any]) -> tuple[NDArray[np.float64], NDArray[np.float32]] | None:
    """Positions and values (float32) of pairs; None where one is no pair of numbers."""
    if not flat:
        return np.zeros(0), np.zeros(0, np.float32)
    if set(map(type, flat)) != {list} or set(map(len, flat)) != {2}:
        return None
    numbers = list(chain.from_iterable(flat))
    if not set(map(type, numbers)) <= {int, float}:
        return None
    try:
        both = np.array(numbers, np.float64).reshape(-1, 2)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return both[:, 0], to_float32(both[:, 1])
