"""What explainers show of a feature: excerpts where it fires and where it does not, all of the explain split."""

import math

from saeinterp_mcp.excerpts.draw import Excerpts
from saeinterp_mcp.excerpts.records import Excerpt, SilentKind
from saeinterp_mcp.excerpts.show import fenced, plain, with_activations
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import SPLITS

EXPLAIN = SPLITS.index("explain")
RANDOM: SilentKind = "random"
SILENT_IN_WORDS: dict[SilentKind, str] = {
    "random": "drawn from all silent ones",
    "near_miss": "with the tokens that go most with its firing",
    "similar": "where a similar feature fires",
}


def firing_excerpts(excerpts: Excerpts, feature: int, n_top: int, n_spread: int, seed: int) -> list[Excerpt]:
    """The strongest ones and others from the whole range, one of a unit, strongest first.

    Raises:
        NotInStore: the feature never fires in the explain split.
    """
    top = excerpts.firing(feature, "explain", n_top, seed, pick="top")
    shown = frozenset(excerpt.unit for excerpt in top)
    spread = excerpts.firing(feature, "explain", n_spread, seed, avoid=shown) if n_spread else []
    return sorted(_unlike([*top, *spread]), key=lambda excerpt: -excerpt.strongest)


def hard_negatives(
    excerpts: Excerpts, feature: int, n: dict[SilentKind, int], seed: int
) -> dict[SilentKind, list[Excerpt]]:
    """Silent excerpts by kind, one of a unit in all; what one kind cannot give is drawn from all silent ones.

    Raises:
        NotInStore: the store is sampled, so that nothing is known to be silent.
    """
    found: dict[SilentKind, list[Excerpt]] = {}
    drawn: list[Excerpt] = []
    for kind in (*n, RANDOM):
        wanted = n.get(kind, sum(n.values()) - len(drawn))
        units = frozenset(excerpt.unit for excerpt in drawn)
        more = excerpts.silent(feature, "explain", kind, wanted, seed, avoid=units)
        found[kind] = _unlike([*drawn, *more])[len(drawn) :]
        drawn += found[kind]
    return {kind: shown for kind, shown in found.items() if shown}


def shown_firing(store: Store, feature: int, excerpts: list[Excerpt]) -> str:
    """Excerpts with their activations, fenced."""
    maximum, _ = scale_of(store, feature)
    return fenced([with_activations(excerpt, maximum) for excerpt in excerpts])


def shown_silent(excerpts: list[Excerpt]) -> str:
    """Silent excerpts, fenced."""
    return fenced([plain(excerpt) for excerpt in excerpts])


def firing_rate_in_words(store: Store, feature: int) -> str:
    """How often it fires in the explain split; in a store of chosen examples nobody knows."""
    if store.manifest.coverage != "full":
        return "How often the feature fires is not known: the data hold only chosen examples."
    n = int(store.per_feature("stats/n_firing", feature)[EXPLAIN])
    n_units = int(store.per_feature("stats/n_firing_units", feature)[EXPLAIN])
    rows, n_rows = "tokens" if store.is_sequence else "samples", store.n_rows("explain")
    return (
        f"The feature fires on {n} of the {n_rows} {rows} of this part of the data set ({100 * n / n_rows:.3g} %), in "
        f"{n_units} of {store.n_units('explain')} independent {'documents' if store.is_sequence else 'units'}."
    )


def scale_of(store: Store, feature: int) -> tuple[float, str]:
    """The activation that is shown as 10, and what it is."""
    effective = float(store.per_feature("stats/effective_max", feature))
    if math.isfinite(effective):
        return (
            effective,
            f"10 stands for an activation of {effective:.3g}, the 99.5th percentile where it fires.",
        )
    largest = float(store.per_feature("stats/max", feature)[EXPLAIN])
    return largest, f"10 stands for an activation of {largest:.3g}, its largest; it fires under 20 times."


def _unlike(excerpts: list[Excerpt]) -> list[Excerpt]:
    """Without those that show the same as an earlier one."""
    seen = set()
    kept = []
    for excerpt in excerpts:
        shown = (excerpt.tokens, excerpt.groups)
        if shown not in seen:
            seen.add(shown)
            kept.append(excerpt)
    return kept
