"""The estimates of a slice's labels beside their reference, from stored sums where there are any."""

from collections.abc import Sequence
from typing import NamedTuple

from saeinterp_mcp.analysis.effects import MIN_N, Effects, tested
from saeinterp_mcp.analysis.moments import Moments, moments_of, stacked
from saeinterp_mcp.operations.slicing import Labels, Slice
from saeinterp_mcp.store.layout import INFLUENCE
from saeinterp_mcp.store.sums import stored_influence


def effects_of(labels: Labels, min_n: int) -> Effects:
    """Every label of a slice against its reference (level 0, or all the rest)."""
    strength, firing = labels.moments()
    return tested(strength, firing, labels.slice.largest, min_n, labels.reference == "level_0")


def presence_moments(part: Slice, families: Sequence[str]) -> tuple[Moments, Moments]:
    """Any level of each family beside none, one entry a family: of the activation, and of firing as 0 and 1."""
    found = [part.labels(f"presence.{name}").moments() for name in families]
    return stacked([pair[0] for pair in found], 1), stacked([pair[1] for pair in found], 1)


def presence_effects(part: Slice, families: Sequence[str], min_n: int) -> Effects:
    """Any level of each family against none: (len(families),) estimates."""
    strength, firing = presence_moments(part, families)
    return tested(strength, firing, part.largest, min_n, first_is_reference=False)


class Influence(NamedTuple):
    """Tokens that go with a feature, or against it, best first."""

    tokens: list[int]
    effects: Effects
    """One entry a token."""


def outstanding_tokens(part: Slice, n_up: int, n_down: int) -> tuple[Influence, Influence]:
    """Tokens with which firing rate and mean are both higher, or both lower, than elsewhere; q under 0.05."""
    if part.is_whole and part.split == "explain" and max(n_up, n_down) <= INFLUENCE:
        stored = _stored_influence(part, n_up, n_down)
        if stored is not None:
            return stored
    effects = effects_of(part.labels("tokens"), MIN_N)
    up, down = effects.outstanding()
    first, second = (Influence(k.tolist(), effects.only(k)) for k in (up[:n_up], down[:n_down]))
    return first, second


def _stored_influence(part: Slice, n_up: int, n_down: int) -> tuple[Influence, Influence] | None:
    stored = stored_influence(part.store, part.feature)
    if stored is None or part.stored_sums is None:
        return None
    totals, of_units = part.labels("tokens").counts, part.stored_sums.totals
    found = []
    for (tokens, sums, q), n in zip(stored, (n_up, n_down), strict=True):
        moments = moments_of(totals.only(tokens[:n]), sums[:n], of_units)
        found.append(Influence(tokens[:n].tolist(), Effects(*moments, part.largest, MIN_N, False, q[:n])))
    return found[0], found[1]
