"""Families found by the names of tokens: `swim_speed_up_12` is level 12 of `swim_speed_up`."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from pipeline.importers.bundle import NAME, FamilyConfig
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import describe_validation

LEVELLED = re.compile(r"(?P<name>.+)_(?P<level>[1-9]\d*)")
MOST_PRESENCE_FAMILIES = 256
"""Above this many tokens without a level, they are words and not abilities; none becomes a family."""

Levels = dict[str, dict[str, int]]
"""Family to token to level."""


def levels_by_name(tokens: Iterable[str]) -> Levels:
    """Families of the tokens that occur.

    Tokens `name_LEVEL` of one name are a family where there are at least two levels; every other token whose name
    can be a family's is one of its own, with the level 1.
    """
    found: Levels = {}
    alone: list[str] = []
    for token in sorted(set(tokens)):
        match = LEVELLED.fullmatch(token)
        if match is not None and NAME.fullmatch(match["name"]):
            found.setdefault(match["name"], {})[token] = int(match["level"])
        else:
            alone.append(token)
    families = {name: levels for name, levels in found.items() if len(levels) > 1}
    alone += [token for name, levels in found.items() if name not in families for token in levels]
    alone = [token for token in alone if NAME.fullmatch(token) and token not in families]
    if len(alone) <= MOST_PRESENCE_FAMILIES:
        families |= {token: {token: 1} for token in alone}
    return {name: _by_level(families[name]) for name in sorted(families)}


def _by_level(levels: dict[str, int]) -> dict[str, int]:
    return dict(sorted(levels.items(), key=lambda item: (item[1], item[0])))


class Encodings:
    """Whether each family is a thermometer, decided by all samples: feed them, then ask.

    `exclusive` if no sample holds two levels. Else `cumulative`: to the letter where every sample that holds a level
    holds all lower ones of those that occur. Where some have gaps, neither word is quite true; that is a thermometer
    whose tokens were masked one by one (as the seed's data are), and the number of samples with gaps is told.
    """

    def __init__(self, families: Levels, token_names: list[str]) -> None:
        """`token_names` are what the token indexes of `add` stand for."""
        place = {token: i for i, token in enumerate(token_names)}
        self.names = list(families)
        self._family = np.full(len(token_names), -1, np.int64)
        self._rank = np.zeros(len(token_names), np.int64)
        for number, levels in enumerate(families.values()):
            for rank, token in enumerate(levels):
                self._family[place[token]], self._rank[place[token]] = number, rank
        self.n_several = np.zeros(len(families), np.int64)
        self.n_gaps = np.zeros(len(families), np.int64)

    def add(self, row: NDArray[np.int64], token: NDArray[np.int64]) -> None:
        """Samples that no other call brings: (row, token index), one entry a token."""
        keep = self._family[token] >= 0
        key = row[keep] * max(1, len(self.names)) + self._family[token[keep]]
        rank = self._rank[token[keep]]
        order = np.lexsort((rank, key))
        key, rank = key[order], rank[order]
        new = np.ones(len(key), bool)
        new[1:] = (key[1:] != key[:-1]) | (rank[1:] != rank[:-1])
        key, rank = key[new], rank[new]
        starts = (
            np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]])) if len(key) else np.zeros(0, int)
        )
        stops = np.concatenate([starts[1:], [len(key)]]) if len(key) else starts
        family = key[starts] % max(1, len(self.names))
        n_levels = stops - starts
        np.add.at(self.n_several, family, n_levels > 1)
        np.add.at(self.n_gaps, family, n_levels < rank[stops - 1] + 1)

    def families(self, levels: Levels) -> list[dict[str, Any]]:
        """The families as bundle.yaml has them."""
        several = dict(zip(self.names, self.n_several, strict=True))
        return [
            {"name": name, "encoding": "cumulative" if several[name] else "exclusive", "levels": of}
            for name, of in levels.items()
        ]

    def notes(self) -> list[str]:
        """What a reader should know of families that are neither one thing nor the other."""
        return [
            f"family {name}: {several} samples hold two levels and {gaps} hold one without a lower one; "
            "taken for a thermometer with masked tokens"
            for name, several, gaps in zip(self.names, self.n_several, self.n_gaps, strict=True)
            if several and gaps
        ]


def read_families(path: Path) -> list[dict[str, Any]]:
    """A YAML list in the form of bundle.yaml's `families`.

    Raises:
        BadInput: missing, or of another form.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist or is not a file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid YAML: {error}") from error
    try:
        families = TypeAdapter(list[FamilyConfig]).validate_python(content or [])
    except ValidationError as error:
        raise BadInput(f"{path}: {describe_validation(error)}") from error
    return [family.model_dump(mode="json") for family in families]
