"""How well a model completes builds, beside what it takes to beat: chance, and how often each weapon has a token."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from examples.loadout import game
from examples.loadout.adapter import SetCompletion, padded

Scores = Callable[[list[list[int]], NDArray[np.int64]], NDArray[np.float64]]
"""Tokens in view, and weapons -> (n, tokens) how likely each token is, in any unit."""
NULL_INDEX = len(game.TOKENS)


def recovered(
    scores: Scores, sets: Sequence[Sequence[int]], seen: list[list[int]], weapons: NDArray[np.int64]
) -> float:
    """Of the removed tokens of a build, the share among as many tokens that the scores put first; mean over builds.

    Tokens in view are no candidates.
    """
    shares = []
    for full, view, row in zip(sets, seen, scores(seen, weapons), strict=True):
        removed = set(full) - set(view)
        row = row.copy()
        row[view] = -np.inf
        first = np.argsort(-row, kind="stable")[: len(removed)]
        shares.append(len(removed & set(first.tolist())) / len(removed))
    return float(np.mean(shares))


def model_scores(network: SetCompletion) -> Scores:
    """The logits of a network."""

    def scores(seen: list[list[int]], weapons: NDArray[np.int64]) -> NDArray[np.float64]:
        with torch.no_grad():
            logits = network(*padded(seen, NULL_INDEX), torch.from_numpy(weapons))
        found: NDArray[np.float64] = logits.double().numpy()
        return found

    return scores


def by_weapon(
    sets: Sequence[Sequence[int]], weapons: NDArray[np.int64], n_weapons: int
) -> NDArray[np.float64]:
    """(n_weapons, tokens): how often builds with a weapon have a token, drawn towards all builds by ten of them."""
    counts, n = np.zeros((n_weapons, NULL_INDEX)), np.bincount(weapons, minlength=n_weapons)[:, None]
    for full, weapon in zip(sets, weapons, strict=True):
        counts[weapon, list(full)] += 1
    overall = counts.sum(0) / len(sets)
    rates: NDArray[np.float64] = (counts + 10 * overall) / (n + 10)
    return rates


def lower_levels_first(scores: NDArray[np.float64], seen: list[list[int]]) -> NDArray[np.float64]:
    """The same scores, with every level below one in view put first: a thermometer says that these are there."""
    found = scores.copy()
    for row, view in zip(found, seen, strict=True):
        for index in view:
            ability, _, level = game.TOKENS[index].rpartition("_")
            if ability in game.STACKABLE:
                for lower in game.THRESHOLDS[: game.THRESHOLDS.index(int(level))]:
                    row[game.TOKENS.index(f"{ability}_{lower}")] = 2.0
    return found


def report(
    network: SetCompletion,
    rates: NDArray[np.float64],
    sets: Sequence[Sequence[int]],
    seen: list[list[int]],
    weapons: NDArray[np.int64],
    draws: np.random.Generator,
) -> Mapping[str, float]:
    """`recovered` of the model and of what is beside it."""
    beside: dict[str, Scores] = {
        "random": lambda view, _: draws.random((len(view), NULL_INDEX)),
        "weapon": lambda _, weapon: rates[weapon],
        "weapon_and_lower_levels": lambda view, weapon: lower_levels_first(rates[weapon], view),
        "model": model_scores(network),
    }
    return {name: recovered(scores, sets, seen, weapons) for name, scores in beside.items()}
