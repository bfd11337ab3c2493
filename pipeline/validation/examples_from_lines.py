"""activations.jsonl and prompts.json (SAE_vis, script 0a): a line is a (feature, prompt), silent ones too."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.importers.json_lines import BadPart, document, lines_in, natural, record_in, strings
from pipeline.validation.bad_rows import BadRows
from pipeline.validation.example_rows import Ints, Prompts, PromptSpool, Rows, RowSpool
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.loaders.base import to_float32

LINES_AT_ONCE = 8_192
BAD_PROMPTS = "prompts that are no list of tokens"


class _Line(NamedTuple):
    number: int
    feature: int
    prompt: int
    numbers: tuple[Any, ...]
    """Position, activation, position, ...: flat, for a million small lists would keep the collector busy."""


def read_prompts(path: Path, spool: PromptSpool, bad: BadRows) -> Prompts:
    """All prompts of the file, numbered as they stand there; bad ones are empty.

    Raises:
        BadInput: it is no list of lists of strings; or holds a bad one, and bad ones end the run.
    """
    content = document(path)
    if not isinstance(content, list) or not content:
        raise BadInput(f"{path} must hold a JSON list of prompts, each a list of token strings")
    good: list[list[str]] = []
    for number, tokens in enumerate(content):
        try:
            if not strings(tokens, "the prompt"):
                raise BadPart(BAD_PROMPTS, "has no tokens")
            good.append(tokens)
        except BadPart as error:
            bad.met(path, f"prompt {number}", BadPart(BAD_PROMPTS, error.why))
            good.append([])
    lengths = np.array([len(tokens) for tokens in good], np.int64)
    codes = spool.codes_of(pa.array(list(chain.from_iterable(good)), pa.large_string()))
    spool.add(np.arange(len(good)), lengths, codes)
    return spool.all()


def read_lines(path: Path, prompts: Prompts, spool: RowSpool, bad: BadRows, compat: bool) -> Ints:
    """Gather the rows of all lines; which of them stood there before, and are left out.

    An activation of 0 is none, and counted as dropped; `compat` keeps it.

    Raises:
        BadInput: a bad line, and bad ones end the run.
    """
    lengths = prompts.lengths(np.arange(len(prompts)))
    numbers: list[Ints] = []
    lines = _lines(path, len(prompts), bad)
    while block := list(islice(lines, LINES_AT_ONCE)):
        rows = _rows(block, lengths)
        if rows is None:
            block = [line for line in block if _is_good(line, lengths, path, bad)]
            rows = _rows(block, lengths)
            assert rows is not None, "lines that are good one by one are good together"
        if not compat:
            rows = _above_zero(rows, bad)
        spool.add(rows)
        numbers.append(np.array([line.number for line in block], np.int64))
    again, first = spool.repeats()
    number = np.concatenate([np.zeros(0, np.int64), *numbers])
    for i, j in zip(again.tolist(), first.tolist(), strict=True):
        why = f"its feature and prompt stood in line {number[j]}"
        bad.met(path, f"line {number[i]}", BadPart("feature and prompt twice", why))
    if spool.n_rows == len(again):
        raise BadInput(f"{path} holds no line that can be taken in")
    return again


def _lines(path: Path, n_prompts: int, bad: BadRows) -> Iterator[_Line]:
    for number, content in lines_in(path, bad):
        try:
            values = record_in(content)
            prompt = natural(values.get("dataSetPromptId"), "dataSetPromptId")
            if prompt >= n_prompts:
                raise BadPart("prompt that does not exist", f"prompt {prompt} is not in 0 to {n_prompts - 1}")
            numbers = _flat(values.get("sparseValues"))
            yield _Line(number, natural(values.get("index"), "index"), prompt, numbers)
        except BadPart as error:
            bad.met(path, f"line {number}", error)


def _flat(pairs: Any) -> tuple[Any, ...]:
    if not isinstance(pairs, list):
        raise BadPart("no sparseValues", "sparseValues is missing or no list")
    if pairs and (set(map(type, pairs)) != {list} or set(map(len, pairs)) != {2}):
        wrong = next(pair for pair in pairs if type(pair) is not list or len(pair) != 2)
        raise BadPart("pair that is none", f"{str(wrong)[:60]} is no [position, activation]")
    return tuple(chain.from_iterable(pairs))


def _rows(block: list[_Line], lengths: Ints) -> Rows | None:
    """The lines as arrays; None where one of them is bad."""
    flat = _numbers(list(chain.from_iterable(line.numbers for line in block)))
    if flat is None:
        return None
    position, value = flat[:, 0], to_float32(flat[:, 1])
    n_pairs = np.array([len(line.numbers) // 2 for line in block], np.int64)
    prompt = np.array([line.prompt for line in block], np.int64)
    line = np.repeat(np.arange(len(block)), n_pairs)
    limit = lengths[prompt][line]
    whole = (position >= 0) & (position < limit) & (position == np.floor(position))
    if not (whole.all() and np.isfinite(value).all() and (value >= 0).all()):
        return None
    key = line * (int(lengths.max()) + 1) + position.astype(np.int64)
    if not (np.diff(key) > 0).all() and not np.diff(np.sort(key)).all():
        return None
    feature = np.array([one.feature for one in block], np.int64)
    return Rows(feature, prompt, n_pairs, position.astype(np.int64), value)


def _numbers(flat: Sequence[Any]) -> NDArray[np.float64] | None:
    """(n, 2) of pairs; None where something is no number."""
    if not set(map(type, flat)) <= {int, float}:
        return None
    try:
        return np.array(flat, np.float64).reshape(-1, 2)
    except OverflowError:  # a number of hundreds of digits
        return None


def _is_good(line: _Line, lengths: Ints, path: Path, bad: BadRows) -> bool:
    try:
        _check(line, int(lengths[line.prompt]))
    except BadPart as error:
        bad.met(path, f"line {line.number}", error)
        return False
    return True


def _check(line: _Line, length: int) -> None:
    """Say what is wrong with a line, if anything is."""
    seen: set[float] = set()
    for pair in zip(line.numbers[::2], line.numbers[1::2], strict=True):
        one = _numbers(pair)
        if one is None:
            raise BadPart("pair that is none", f"{str(list(pair))[:60]} is no [position, activation]")
        position, value = float(one[0, 0]), float(to_float32(one[:, 1])[0])
        if not (0 <= position < length and position == int(position)):
            why = f"position {pair[0]} is not in prompt {line.prompt}, which has {length} tokens"
            raise BadPart("position outside its prompt", why)
        if position in seen:
            raise BadPart("position twice", f"position {pair[0]} is there twice")
        seen.add(position)
        if not np.isfinite(value):
            raise BadPart("activation not finite", f"activation {pair[1]} is not finite in float32")
        if value < 0:
            raise BadPart("negative activation", f"activation {pair[1]} is negative")


def _above_zero(rows: Rows, bad: BadRows) -> Rows:
    kept = rows.value > 0
    if kept.all():
        return rows
    bad.dropped["activation of 0"] += int((~kept).sum())
    row = np.repeat(np.arange(len(rows.n_pairs)), rows.n_pairs)[kept]
    n_pairs = np.bincount(row, minlength=len(rows.n_pairs))
    return Rows(rows.feature, rows.prompt, n_pairs, rows.position[kept], rows.value[kept])
