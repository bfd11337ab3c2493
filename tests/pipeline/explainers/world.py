"""Two little worlds, and what explainers ask about them. `python -m tests.pipeline.explainers.world` writes it anew."""

from pathlib import Path

import numpy as np

from pipeline.explainers import EXPLAINERS
from saeinterp_mcp.clients.base import Request
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import FamilyInfo
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store

PROMPTS = Path(__file__).with_name("prompts")
HELDOUT = ("d3", "d4", "d5", "d7", "d13")
"""Units d0 to d15 of the held-out split; the others are of the explain split."""

CAT, DEAD, ONLY_HELDOUT, ONCE, EVERYWHERE, ANIMALS = range(6)

_TEXTS = {
    "d0": "the cat sat on a mat",
    "d1": "cat naps all day",  # fires on the first counted token
    "d2": "a dog saw a cat",  # and on the last
    "d3": "secret cat said so",
    "d4": "secret cat again",
    "d5": "secret dog here",
    "d6": "the cat and the cat",
    "d7": "secret plans of a cat",
    "d8": "the cat sat on a mat",  # the same text as d0, in another document
    "d9": "the dog sat on a mat",
    "d10": "a car sat in the sun",
    "d11": "the dog and the dog",
    "d12": "all day the sun shone",
    "d13": "secret sun",
    "d14": "on a mat all day",
    "d15": "a dog naps",
}
CAT_ACTIVATIONS = {
    ("d0", 1): 8.0, ("d1", 0): 6.0, ("d2", 4): 4.0, ("d6", 1): 2.0, ("d6", 4): 0.9, ("d8", 1): 3.0,
    ("d3", 1): 9.0, ("d4", 1): 7.0, ("d7", 4): 5.0,
}  # fmt: skip
"""(unit, counted token from 0) to activation of feature CAT."""


def pets() -> World:
    """Sixteen documents after a BOS that is not counted; CAT fires on ` cat`, ANIMALS on that and on ` dog`."""
    units = list(_TEXTS)
    samples = tuple(
        WorldSample(("<bos>", *(f" {word}" for word in text.split())), unit, {"book": f"b{i % 2}"})
        for i, (unit, text) in enumerate(_TEXTS.items())
    )
    activations = {(CAT, units.index(u), at + 1): value for (u, at), value in CAT_ACTIVATIONS.items()}
    for i, unit in enumerate(units):
        activations[EVERYWHERE, i, 0] = 90.0  # on BOS, which is not counted
        for at, word in enumerate(_TEXTS[unit].split(), 1):
            activations[EVERYWHERE, i, at] = 1.0 + at / 4
            if word in ("cat", "dog"):
                activations[ANIMALS, i, at] = 2.0
    activations[ONLY_HELDOUT, units.index("d3"), 1] = 1.0
    activations[ONCE, units.index("d12"), 4] = 5.0
    animal = FamilyInfo(name="animal", encoding="exclusive", levels=(1, 2), tokens={" cat": 1, " dog": 2})
    return World(
        kind="sequence",
        n_features=6,
        samples=samples,
        activations=activations,
        families=(animal,),
        primary="book",
        excluded_positions=(0,),
        decoder=np.array([[1, 0], [0, 1], [1, 1], [0, 0], [-1, 0], [1, 0.5]], np.float32),
        unembedding=np.array([[3, 0, 0, -1], [0, 0, 3, 1]], np.float32),
        output_tokens=(" naps", " sat", ' "', "<<"),
        name="pets",
    )


ROLLER, NEVER, SWIM = range(3)


def outfits() -> World:
    """A hundred and forty-four sets; ROLLER fires with the weapon roller, SWIM on swim_6, stronger with swim_12."""
    rows = []
    for i in range(144):
        tokens = [t for k, t in enumerate(("swim_6", "ink", "ninja")) if (i >> k) & 1]
        rows.append((tokens + (["swim_12"] if i % 4 == 1 else []), ("roller", "brush", "charger")[i % 3]))
    samples = tuple(
        WorldSample(tuple(tokens), f"o{i}", {"weapon": weapon}) for i, (tokens, weapon) in enumerate(rows)
    )
    activations = {}
    for i, (tokens, weapon) in enumerate(rows):
        if weapon == "roller":
            activations[ROLLER, i, 0] = 1.0 + i / 48
        if "swim_6" in tokens:
            activations[SWIM, i, 0] = 4.0 if "swim_12" in tokens else 2.0
    swim = FamilyInfo(name="swim", encoding="cumulative", levels=(6, 12), tokens={"swim_6": 6, "swim_12": 12})
    return World(
        kind="set",
        n_features=3,
        samples=samples,
        activations=activations,
        families=(swim,),
        primary="weapon",
        attributes={
            "weapon": {"roller": {"class": "near"}, "brush": {"class": "near"}, "charger": {"class": "far"}}
        },
        name="outfits",
    )


CASES = (
    ("max_activating", "pets", CAT),
    ("contrastive", "pets", CAT),
    ("output_side", "pets", CAT),
    ("max_activating", "outfits", SWIM),
    ("contrastive", "outfits", ROLLER),
)


def store_of(world: str) -> Store:
    return memory_store({"pets": pets, "outfits": outfits}[world]())


def request_of(explainer: str, store: Store, feature: int) -> Request:
    return EXPLAINERS[explainer]().request(store, feature, seed=0)


def as_text(request: Request) -> str:
    """A request as a model reads it: the instructions, then the material."""
    return f"{request.system}\n\n======== user ========\n\n{request.user}\n"


def kept(explainer: str, world: str) -> Path:
    return PROMPTS / f"{explainer}.{world}.txt"


if __name__ == "__main__":
    for explainer, world, feature in CASES:
        text = as_text(request_of(explainer, store_of(world), feature))
        kept(explainer, world).write_text(text, encoding="utf-8")
        print(f"{kept(explainer, world)}: {len(text)} characters")
