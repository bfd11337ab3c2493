"""Draw builds by the planted regularities: `builds.parquet`, `planted.json` and `weapon_attributes.parquet`.

    python -m examples.loadout.generate --out examples/loadout

The same seed gives the same builds everywhere: all draws are comparisons with uniform numbers of one generator.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from examples.loadout import chances, game
from examples.loadout.game import PIECES, Build, Weapon
from examples.loadout.planted import planted
from examples.loadout.regularities import ARCHETYPES, COPY_SHARE, FREE, N_BUILDS, SEED

N_SUB_SLOTS = game.N_SUBS * len(PIECES)


class Drawn(NamedTuple):
    """A build, who wears it and what it was drawn as."""

    weapon: Weapon
    archetype: str
    build: Build


def choose(odds: Mapping[str, float], draws: np.random.Generator) -> str:
    """One name, by its odds."""
    place = draws.random() * sum(odds.values())
    for name, value in odds.items():
        place -= value
        if place < 0:
            return name
    return [name for name, value in odds.items() if value > 0][-1]  # rounding may leave nothing over


def draw_stackable(weights: Mapping[str, float], n: int, draws: np.random.Generator) -> list[str]:
    """`n` abilities from an urn, each put back with one more of its kind (Polya's urn)."""
    filled = dict(weights)
    drawn = []
    for _ in range(n):
        drawn.append(choose(filled, draws))
        filled[drawn[-1]] += 1
    return drawn


def draw_build(weapon: Weapon, archetype: str, draws: np.random.Generator) -> Build:
    """A legal build, drawn as `regularities.py` says."""
    slots = chances.slot_chances(weapon, archetype)
    mains = {piece: choose(slots[piece], draws) for piece in PIECES}
    packs = ARCHETYPES[archetype].packs
    pack = packs[int(choose({str(i): pack.share for i, pack in enumerate(packs)}, draws))]
    packed = [ability for ability, n in pack.subs.items() for _ in range(n)]
    free = [piece for piece in PIECES if mains[piece] == FREE]
    weights = chances.urn(weapon, archetype, set(mains.values()))
    drawn = draw_stackable(weights, len(free) + N_SUB_SLOTS - len(packed), draws)
    for piece in free:
        mains[piece] = drawn.pop(0)
    return game.build_of([mains[piece] for piece in PIECES], packed + drawn)


def draw(n: int, seed: int) -> list[Drawn]:
    """`n` builds; about `COPY_SHARE` of them are copies of earlier ones."""
    draws = np.random.default_rng(seed)
    by_name = {weapon.weapon: weapon for weapon in game.weapons()}
    found: list[Drawn] = []
    for i in range(n):
        if i > 0 and draws.random() < COPY_SHARE:
            found.append(found[int(draws.random() * i)])
            continue
        weapon = by_name[choose(chances.weapon_chances(), draws)]
        archetype = choose(chances.archetype_chances(weapon), draws)
        found.append(Drawn(weapon, archetype, draw_build(weapon, archetype, draws)))
    return found


def table(builds: list[Drawn]) -> pa.Table:
    """The columns of `builds.parquet`. `build` numbers the pairs of weapon and tokens that differ."""
    tokens = [game.tokens_of(game.ability_points(drawn.build)) for drawn in builds]
    numbers: dict[tuple[str, ...], int] = {}
    keys = [(drawn.weapon.weapon, *of) for drawn, of in zip(builds, tokens, strict=True)]
    ids = [f"b{numbers.setdefault(key, len(numbers)):05}" for key in keys]
    return pa.table(
        {
            "build": pa.array(ids, pa.string()),
            "weapon": pa.array([drawn.weapon.weapon for drawn in builds], pa.string()),
            "tokens": pa.array(tokens, pa.list_(pa.string())),
            "archetype": pa.array([drawn.archetype for drawn in builds], pa.string()),
        }
    )


def content_hash(builds: pa.Table) -> str:
    """SHA-256 of the rows, which does not depend on how the file was compressed."""
    rows = json.dumps(builds.to_pylist(), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(rows.encode("utf-8")).hexdigest()


def attributes() -> pa.Table:
    """One row for each weapon: its class, sub and special."""
    kits = game.weapons()
    names = ("weapon", "class", "sub", "special")
    return pa.table({name: pa.array([kit.attribute(name) for kit in kits], pa.string()) for name in names})


def main() -> None:
    """Write the three files and say what is in them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=game.HERE)
    parser.add_argument("--n", type=int, default=N_BUILDS, help="builds; the committed file has 15,000")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    builds = table(draw(arguments.n, arguments.seed))
    pq.write_table(builds, arguments.out / "builds.parquet", compression="zstd", compression_level=19)
    pq.write_table(attributes(), arguments.out / "weapon_attributes.parquet", compression="zstd")
    truth = planted() | {"n_builds": arguments.n, "seed": arguments.seed, "content": content_hash(builds)}
    (arguments.out / "planted.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    n_units = len(set(builds["build"].to_pylist()))
    print(f"{len(builds)} builds, {n_units} different, content {truth['content'][:16]}")


if __name__ == "__main__":
    main()
