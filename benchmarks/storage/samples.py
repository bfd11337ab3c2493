"""The samples of a world, a part at a time: gear builds with families of abilities, documents of tokens."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.storage.worlds import DOCUMENT_TOKENS, World
from saeinterp_mcp.analysis.sampling import rng

LEVELS = (3, 6, 12, 15, 21, 29, 38, 51, 57)
ABILITIES = (
    "ink_saver_main", "ink_saver_sub", "ink_recovery_up", "run_speed_up", "swim_speed_up", "special_charge_up",
    "special_saver", "special_power_up", "quick_respawn", "quick_super_jump", "sub_power_up", "ink_resistance_up",
    "sub_resistance_up", "intensify_action",
)  # fmt: skip
SINGLES = (
    "opening_gambit", "last_ditch_effort", "tenacity", "comeback", "ninja_squid", "haunt", "thermal_ink",
    "respawn_punisher", "ability_doubler", "stealth_jump", "object_shredder", "drop_roller",
)  # fmt: skip
FAMILY_SHARES = np.linspace(0.40, 0.06, len(ABILITIES))
SINGLE_SHARES = np.linspace(0.22, 0.03, len(SINGLES))
N_WEAPONS = 130
WEAPON_ATTRIBUTES = {"class": 11, "sub": 14, "special": 19}

N_WORDS = 2048
N_TONES = 10
FIRST_TONE = 10
"""Token id of the family's first level: its ten tokens are common, but not the commonest."""
MAX_DEPTH = 10
GROUP_VALUES = {"genre": 20, "period": 18}


class Part(NamedTuple):
    """Samples of one part, with what their features may depend on."""

    units: NDArray[np.int64]
    """(n,) unit of each sample, counted within the part."""
    tokens: NDArray[np.int64]
    """All token ids, sample by sample."""
    lengths: NDArray[np.int64]
    """(n,) tokens of each sample."""
    groups: dict[str, NDArray[np.int64]]
    """(n,) index of each sample's value; the first group is the primary one."""
    levels: list[NDArray[np.uint8]]
    """For each family with levels, (rows,) the code of the highest level, 0 for none."""
    depth: NDArray[np.uint8] | None
    """(rows,) level of the family of positions, in a sequence world."""


@lru_cache(maxsize=2)
def vocabulary(world: World) -> list[str]:
    """Token strings by token id."""
    if world.kind == "sequence":
        return [
            f"tone_{i - FIRST_TONE + 1}" if FIRST_TONE <= i < FIRST_TONE + N_TONES else f"w{i:04d}"
            for i in range(N_WORDS)
        ]
    return [f"{a}_{level}" for a in ABILITIES for level in LEVELS] + list(SINGLES)


def n_families(world: World) -> int:
    """Families with levels that features may depend on."""
    return len(ABILITIES) if world.kind == "set" else 1


def n_values(world: World) -> int:
    """Values of the primary group."""
    return N_WEAPONS if world.kind == "set" else GROUP_VALUES["genre"]


def samples_of_part(world: World, part: int) -> Part:
    """Draw the samples of a part; the same part gives the same samples."""
    first = part * world.samples_per_part
    n = min(world.samples_per_part, world.n_samples - first)
    generator = rng(world.seed, world.name, "samples", part)
    return _builds(generator, n) if world.kind == "set" else _documents(generator, n)


def _builds(generator: np.random.Generator, n: int) -> Part:
    """A quarter of the builds share the unit (a player) of the one before."""
    units = np.cumsum(generator.random(n) < 0.75, dtype=np.int64)
    present = generator.random((n, len(ABILITIES))) < FAMILY_SHARES
    codes = np.minimum(generator.geometric(0.35, (n, len(ABILITIES))), len(LEVELS))
    codes = np.where(present, codes, 0).astype(np.uint8)
    thermometer = codes[:, :, None] > np.arange(len(LEVELS))
    singles = generator.random((n, len(SINGLES))) < SINGLE_SHARES
    held = np.concatenate([thermometer.reshape(n, -1), singles], axis=1)
    weapon = _zipf(generator, N_WEAPONS, n)
    levels = [np.ascontiguousarray(codes[:, j]) for j in range(len(ABILITIES))]
    return Part(units, np.nonzero(held)[1], held.sum(1, dtype=np.int64), {"weapon": weapon}, levels, None)


def _documents(generator: np.random.Generator, n: int) -> Part:
    """One document in six has two samples."""
    wants = generator.random(n) < 0.2
    joins = wants & ~np.concatenate([[True], wants[:-1]])
    units = np.cumsum(~joins, dtype=np.int64) - 1
    words = _zipf(generator, N_WORDS, n * DOCUMENT_TOKENS)
    groups = {name: _zipf(generator, k, int(units[-1]) + 1)[units] for name, k in GROUP_VALUES.items()}
    tone = np.where((words >= FIRST_TONE) & (words < FIRST_TONE + N_TONES), words - FIRST_TONE + 1, 0)
    walk = np.cumsum(generator.integers(-1, 2, (n, DOCUMENT_TOKENS)), axis=1) % (2 * MAX_DEPTH)
    depth = np.minimum(walk, 2 * MAX_DEPTH - walk).astype(np.uint8).ravel()
    lengths = np.full(n, DOCUMENT_TOKENS)
    return Part(units, words, lengths, groups, [tone.astype(np.uint8)], depth)


def _zipf(generator: np.random.Generator, k: int, n: int) -> NDArray[np.int64]:
    """n draws of 0 .. k - 1, the i-th as often as 1 / (i + 3)."""
    edges = np.cumsum(1 / (np.arange(k) + 3.0))
    return np.asarray(np.searchsorted(edges, generator.random(n) * edges[-1], side="right"))
