"""delphi's files of neighbours, `neighbours/<hookpoint>-<measure>.json`: {"feature": [[value, neighbour], ...]}.

The value comes first, whatever delphi's type hints say. They are read piece by piece: 131,072 features with 250
neighbours each are a gigabyte of text.
"""

import json
import math
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.importers.results.records import Problem

if TYPE_CHECKING:
    import polars as pl

MEASURES = ("co-occurrence", "decoder_similarity", "encoder_similarity")
MOST = 100
"""Neighbours of a feature that are kept, the nearest ones."""
CHUNK, MOST_HELD = 1 << 20, 1 << 26
_KEY = re.compile(r'[\s{,]*"(\d{1,10})"\s*:\s*')


class Neighbours(NamedTuple):
    """Rows of the table `neighbours`, without what is the same in all of them, and what was left out."""

    frame: "pl.DataFrame"
    n_self: int
    """Times a feature was its own neighbour: delphi takes the first for it, which is wrong among equal ones."""
    n_cut: int
    """Neighbours after the first `MOST`."""


def neighbour_files(run: Path, hookpoint: str) -> dict[str, Path]:
    """Measure to file of a hookpoint."""
    paths = {measure: run / "neighbours" / f"{hookpoint}-{measure}.json" for measure in MEASURES}
    return {measure: path for measure, path in paths.items() if path.is_file()}


def read_neighbours(path: Path, n_features: int) -> Neighbours | Problem:
    """The rows of a file: feature_id, rank (from 1), neighbour_id and value, null where delphi wrote NaN."""
    import polars as pl

    features, ranks, neighbours, values = array("I"), array("H"), array("I"), array("d")
    n_self = n_cut = 0
    try:
        for feature, pairs in _entries(path):
            n_cut += max(0, len(pairs) - MOST)
            for rank, pair in enumerate(pairs[:MOST], start=1):
                value, neighbour = _value_first(pair)
                if not (0 <= neighbour < n_features and feature < n_features):
                    raise ValueError(f"feature {max(feature, neighbour)}, and the store has {n_features}")
                if neighbour == feature:
                    n_self += 1
                    continue
                features.append(feature)
                ranks.append(rank)
                neighbours.append(neighbour)
                values.append(value)
    except EOFError:
        return Problem(path, "truncated", "JSON without its end")
    except (ValueError, RecursionError, OSError) as error:
        return Problem(path, "foreign", f"no neighbours as delphi writes them: {error}")
    frame = pl.DataFrame(
        {
            "feature_id": pl.Series(features, dtype=pl.UInt32),
            "rank": pl.Series(ranks, dtype=pl.UInt16),
            "neighbour_id": pl.Series(neighbours, dtype=pl.UInt32),
            "value": pl.Series(values, dtype=pl.Float64).fill_nan(None),
        }
    )
    return Neighbours(frame, n_self, n_cut)


def _value_first(pair: Any) -> tuple[float, int]:
    """(value, neighbour): the neighbour is the integer, where only one of them is."""
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError(f"{str(pair)[:40]!r} is no pair")
    value, neighbour = pair if type(pair[1]) is int else reversed(pair)
    number = math.nan if value is None else value
    if type(neighbour) is not int or type(number) not in (int, float):
        raise ValueError(f"{str(pair)[:40]!r} is no value with a feature")
    return (float(number) if math.isfinite(number) else math.nan), neighbour


def _entries(path: Path) -> Iterator[tuple[int, list[Any]]]:
    """(feature, its list), as they come.

    Raises:
        EOFError: the file ends before its object does.
        ValueError: it is no object of lists.
    """
    decoder, held, at = json.JSONDecoder(), "", 0
    with path.open(encoding="utf-8") as file:
        while True:
            match = _KEY.match(held, at)
            found = _decoded(decoder, held, match.end()) if match is not None else None
            if match is not None and found is not None:
                value, at = found
                if not isinstance(value, list):
                    raise ValueError(f"feature {match[1]} has no list")
                yield int(match[1]), value
                continue
            more = file.read(CHUNK)
            if not more:
                break
            if len(held) - at > MOST_HELD:
                raise ValueError(f"one entry of more than {MOST_HELD >> 20} MiB")
            held, at = held[at:] + more, 0
    rest = held[at:].strip()
    if not re.fullmatch(r"\{?\s*\}", rest):
        if rest[:1] in ("", "{", ",", '"'):
            raise EOFError
        raise ValueError("no JSON object")


def _decoded(decoder: json.JSONDecoder, held: str, start: int) -> tuple[Any, int] | None:
    """(value, end) of the JSON at a place; None where it is not whole yet."""
    try:
        value, end = decoder.raw_decode(held, start)
    except json.JSONDecodeError:
        return None
    return value, end
