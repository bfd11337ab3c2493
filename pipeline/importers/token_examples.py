"""Examples as dashboards publish them: a feature, the tokens of a text, and the activation at each token."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.importers.json_lines import BadPart, strings
from pipeline.importers.prompt_spool import PromptSpool, Records
from saeinterp_mcp.loaders.base import to_float32

HELD = 4_096


class TokenExamples:
    """Checks examples and puts them into a spool; texts of the very same tokens are one prompt."""

    def __init__(self, negatives: bool, ids: bool = False) -> None:
        """Whether negative activations are let through, and whether tokens are ids."""
        self.spool = PromptSpool()
        self.ids = ids
        self._negatives = negatives
        self._held = Records([], [], [], [], [], [])
        self.n_by_bin: Counter[str] = Counter()
        """Examples by what group they stood in: top, interval, or neither."""
        self.n_silent = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is no example yet."""
        return not self.spool.n_records and not self._held.feature

    def add(self, feature: int, tokens: Any, values: Any, place: int) -> bool:
        """Append an example; whether anything fires in it.

        Raises:
            BadPart: tokens and values do not go together, or a value is no activation.
        """
        numbers = activations(values, self._negatives)
        if not isinstance(tokens, list) or not tokens:
            raise BadPart("no tokens", "an example without tokens")
        if len(tokens) != len(numbers):
            raise BadPart("tokens and values", f"{len(tokens)} tokens and {len(numbers)} values")
        prompt = self._by_ids(tokens) if self.ids else self.spool.prompt(strings(tokens, "tokens"))
        firing = np.flatnonzero(numbers)
        self.n_silent += not len(firing)
        held: Any = self._held
        for column, number in zip(held, (feature, prompt, len(firing)), strict=False):
            column.append(number)
        held.position.extend(firing.tolist())
        held.value.extend(numbers[firing].tolist())
        held.place.append(place)
        if len(held.feature) >= HELD:
            self._write()
        return bool(len(firing))

    def _by_ids(self, ids: list[Any]) -> int:
        if not all(type(i) is int and 0 <= i < 2**31 for i in ids):
            raise BadPart("tokens are no ids", "tokens is no list of ids")
        return self.spool.prompt_of_ids(ids)

    def add_bin(self, low: Any, high: Any, share: Any) -> None:
        """Count an example by its group: `low` is -1 for the strongest ones, and all are 0 where nobody knows."""
        known = bool(low or high or share)
        self.n_by_bin["top" if known and low == -1 else "interval" if known else "neither"] += 1

    def close(self) -> tuple[str, ...]:
        """No more examples; what there is to tell."""
        self._write()
        n = self.spool.n_records
        equal, variants = self.spool.part_repeats()
        told = [f"{n} examples of {self.spool.n_prompts - variants} texts"]
        if self.n_by_bin:
            told[0] += ": " + ", ".join(f"{n} {name}" for name, n in sorted(self.n_by_bin.items()))
        if equal:
            told.append(
                f"{equal} examples stood there more than once, with the same values; each counts once"
            )
        if variants:
            told.append(
                f"{variants} examples have the tokens of another one of their feature but other values (a text cut out "
                "of different contexts); each is a sample of its own"
            )
        if self.n_silent:
            told.append(f"{self.n_silent} examples hold no activation above 0")
        if not self.ids:
            told.append(f"tokens: {self.spool.spelled_as()}")
        return tuple(told)

    def _write(self) -> None:
        self.spool.add(self._held)
        self._held = Records([], [], [], [], [], [])


def activations(values: Any, negatives: bool) -> NDArray[np.float32]:
    """A list of activations.

    Raises:
        BadPart: one is no number, not finite in float32, or negative where that is not wanted.
    """
    if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
        raise BadPart("values are no numbers", "values is no list of numbers")
    try:
        found = to_float32(np.array(values, np.float64))
    except OverflowError:  # an integer of hundreds of digits
        found = np.array([np.inf], np.float32)
    if not np.isfinite(found).all():
        raise BadPart("activation not finite", "an activation is not finite in float32")
    if not negatives and (found < 0).any():
        raise BadPart(
            "negative activation",
            f"activation {found.min():g} is negative (--negatives drop|abs handles those)",
        )
    return found
