"""A sequence store of 40 features, each firing on a word of its own; explanations that are true, half true, of another
feature, gibberish."""

from pathlib import Path

import numpy as np
import yaml

from pipeline.validation.run import run_validation
from saeinterp_mcp.labels.revisions import save_label
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import World, WorldSample
from saeinterp_mcp.store.open import open_store
from tests.worlds import Quiet, import_world

ROOTS = (
    "river", "castle", "violin", "copper", "winter", "garden", "engine", "market", "falcon", "harbor",
    "lantern", "marble", "needle", "orchid", "pepper", "quarry", "ribbon", "saddle", "temple", "umpire",
    "velvet", "walnut", "yogurt", "zipper", "anchor", "basket", "candle", "desert", "emblem", "forest",
    "guitar", "hammer", "island", "jungle", "kettle", "lemon", "mirror", "napkin", "oyster", "parrot",
)  # fmt: skip
DEAD = len(ROOTS)
"""A feature that never fires."""
FILLERS = (" the", " of", " a", " and", " was", " old", " new", " by")
SAID = {
    0: 'the word "river", mentions of rivers',
    1: "castles, or anything about ships",
    2: "the word falcon",
    3: "zzyx qwop, flurbish",
}
"""True, half true, of feature 8, gibberish."""
AUTHOR = "someone"


def words() -> World:
    """80 documents; feature f fires on its word at strengths that differ."""
    generator = np.random.default_rng(3)
    samples, activations = [], {}
    for i in range(240):
        tokens = ["<bos>"]
        for f in (i % 40, (7 * i + 3) % 40):
            tokens += [str(t) for t in generator.choice(FILLERS, int(generator.integers(3, 25)))]
            activations[f, i, len(tokens)] = round(float(generator.lognormal(1, 0.5)), 3)
            tokens.append(f" {ROOTS[f]}")
        tokens += [str(t) for t in generator.choice(FILLERS, 8)]
        samples.append(WorldSample(tuple(tokens), unit=f"doc{i}"))
    return World(
        kind="sequence",
        n_features=DEAD + 1,
        samples=tuple(samples),
        activations=activations,
        excluded_positions=(0,),
        name="words",
    )


def make(folder: Path) -> Store:
    """The store, with labels beside it."""
    store = open_store(import_world(words(), folder))
    for feature, text in SAID.items():
        save_label(store.need_labels, store.lineage, feature, {"text": text, "author": AUTHOR})
    return store


def validate(folder: Path, embedder: str | None = "none") -> None:
    """Publish the tables beside the store of `make`."""
    config = {
        "name": "words",
        "sae_id": "planted/words",
        "store": "store",
        "embedder": {"model": embedder},
        "pattern_matching": {"n_random_features": 30},
    }
    (folder / "validate.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run_validation(folder / "validate.yaml", progress=Quiet())
