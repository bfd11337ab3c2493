"""Small worlds with known answers, and how to write one as a bundle."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from hypothesis import strategies as st

from pipeline.importers.run_import import import_bundle
from saeinterp_mcp.store.manifest import FamilyInfo
from saeinterp_mcp.store.memory_store import World, WorldSample


class Quiet:
    """A reporter that says nothing."""

    def say(self, text: str) -> None:
        pass

    def working(self, name: str) -> Any:
        from contextlib import nullcontext

        return nullcontext(lambda done, total: None)


def write_bundle(world: World, folder: Path, cuts: Sequence[int] = (), reverse: bool = False) -> Path:
    """Write a world as a bundle; `cuts` splits the activations into files, `reverse` turns their order round."""
    folder.mkdir(parents=True)
    names = sorted({g for s in world.samples for g in s.groups})
    columns: dict[str, Any] = {"tokens": [list(s.tokens) for s in world.samples]}
    if any(s.unit is not None for s in world.samples):
        columns["unit"] = [s.unit for s in world.samples]
    columns |= {g: [s.groups.get(g) for s in world.samples] for g in names}
    schema: dict[str, Any] = {
        "tokens": pl.List(pl.String),
        **{c: pl.String for c in columns if c != "tokens"},
    }
    pl.DataFrame(columns, schema=schema).write_parquet(folder / "samples.parquet")
    entries = [(f, s, p, v) for (f, s, p), v in world.activations.items()]
    if reverse:
        entries.reverse()
    kinds = {"feature": pl.UInt32, "sample": pl.Int64, "position": pl.UInt16, "value": pl.Float64}
    if cuts:
        (folder / "activations").mkdir()
        edges = [0, *sorted(min(c, len(entries)) for c in cuts), len(entries)]
        for i, (start, stop) in enumerate(pairwise(edges)):
            frame = pl.DataFrame(entries[start:stop], schema=kinds, orient="row")
            frame.write_parquet(folder / "activations" / f"part-{i:04d}.parquet")
    else:
        pl.DataFrame(entries, schema=kinds, orient="row").write_parquet(folder / "activations.parquet")
    if world.position_levels:
        keys = sorted({k for levels in world.position_levels.values() for k in levels})
        table: dict[str, Any] = {"sample": [s for s, _ in keys], "position": [p for _, p in keys]}
        table |= {name: [levels.get(k, 0) for k in keys] for name, levels in world.position_levels.items()}
        pl.DataFrame(table).write_parquet(folder / "positions.parquet")
    config: dict[str, Any] = {
        "name": world.name,
        "kind": world.kind,
        "n_features": world.n_features,
        "split_seed": world.split_seed,
        "families": [{"name": f.name, "encoding": f.encoding, "levels": f.tokens} for f in world.families],
        "groups": [],
    }
    if world.excluded_positions:
        config["excluded_positions"] = list(world.excluded_positions)
    for name in sorted(names, key=lambda g: g != world.primary):
        group: dict[str, Any] = {"name": name, "primary": name == (world.primary or names[0])}
        if name in world.attributes:
            rows = [{name: value, **attributes} for value, attributes in world.attributes[name].items()]
            pl.DataFrame(rows).write_parquet(folder / f"{name}_attributes.parquet")
            group["attributes"] = f"{name}_attributes.parquet"
        config["groups"].append(group)
    if world.decoder is not None:
        np.save(folder / "decoder.npy", world.decoder)
        config["decoder"] = "decoder.npy"
    if world.unembedding is not None:
        np.save(folder / "unembedding.npy", world.unembedding)
        config |= {"unembedding": "unembedding.npy", "output_tokens": list(world.output_tokens)}
    (folder / "bundle.yaml").write_text(yaml.safe_dump(config, allow_unicode=False), encoding="utf-8")
    return folder


def import_world(world: World, folder: Path, **layout: Any) -> Path:
    """Write a world as a bundle and import it; the store's folder."""
    bundle = write_bundle(world, folder / "bundle", **layout)
    import_bundle(bundle, folder / "store", progress=Quiet())
    return folder / "store"


def builds() -> World:
    """A set world worked out by hand in tests/operations: 12 builds, 3 families, weapons with classes.

    Feature 0 fires exactly on `swim` at its level x 1.0; feature 1 only with weapon roller; feature 2 with
    comeback and ninja together; feature 3 never; feature 4 everywhere with 2.0.
    """
    swim = FamilyInfo(name="swim", encoding="cumulative", levels=(3, 6), tokens={"swim_3": 3, "swim_6": 6})
    comeback = FamilyInfo(name="comeback", encoding="exclusive", levels=(1,), tokens={"comeback": 1})
    ninja = FamilyInfo(name="ninja", encoding="exclusive", levels=(1,), tokens={"ninja": 1})
    rows = [
        ("swim_3", "roller"), ("swim_3 swim_6", "roller"), ("comeback", "roller"),
        ("comeback ninja", "brush"), ("ninja", "brush"), ("swim_3 ninja", "brush"),
        ("swim_3 swim_6 comeback", "blaster"), ("comeback ninja", "blaster"), ("", "blaster"),
        ("swim_3 comeback ninja", "charger"), ("ninja", "charger"), ("comeback", None),
    ]  # fmt: skip
    samples = tuple(
        WorldSample(
            tuple(tokens.split()), unit=f"u{i}", groups={"weapon": weapon, "season": "s1" if i % 2 else "s2"}
        )
        for i, (tokens, weapon) in enumerate(rows)
    )
    activations: dict[tuple[int, int, int], float] = {}
    for i, sample in enumerate(samples):
        level = 6 if "swim_6" in sample.tokens else 3 if "swim_3" in sample.tokens else 0
        if level:
            activations[0, i, 0] = float(level)
        if sample.groups["weapon"] == "roller":
            activations[1, i, 0] = 1.5
        if {"comeback", "ninja"} <= set(sample.tokens):
            activations[2, i, 0] = 4.0
        activations[4, i, 0] = 2.0
    classes = {"roller": "roller", "brush": "roller", "blaster": "blaster", "charger": "charger"}
    return World(
        kind="set",
        n_features=5,
        samples=samples,
        activations=activations,
        families=(swim, comeback, ninja),
        primary="weapon",
        attributes={"weapon": {w: {"class": c} for w, c in classes.items()}},
        decoder=np.array([[1, 0], [0, 1], [1, 1], [0, 0], [-1, 0]], np.float32),
        unembedding=np.array([[3, 0, 0], [0, 0, 3]], np.float32),
        output_tokens=("a", "b", "c"),
        name="builds",
    )


def texts() -> World:
    """A sequence world: 40 documents of two samples, BOS first; feature 0 fires on `def`, feature 1 after it."""
    generator = np.random.default_rng(5)
    words = ["def", "x", "(", ")", "1", "22", "é<0xE2>", "<<so>>"]
    samples, activations, depth = [], {}, {}
    for i in range(80):
        tokens = ["<bos>", *generator.choice(words, size=int(generator.integers(3, 14))).tolist()]
        samples.append(
            WorldSample(
                tuple(tokens),
                unit=f"doc{i // 2}",
                groups={"module": f"m{i // 2 % 4}", "kind": "code" if i % 3 else None},
            )
        )
        opened = 0
        for p, token in enumerate(tokens):
            opened = max(0, opened + (token == "(") - (token == ")"))
            if opened:
                depth[i, p] = min(opened, 3)
            if p == 0:
                activations[2, i, p] = 50.0
                continue
            if token == "def":
                activations[0, i, p] = round(float(generator.lognormal(0.5, 0.6)), 3)
            if tokens[p - 1] == "def":
                activations[1, i, p] = round(float(generator.lognormal(0.0, 0.4)), 3)
            if generator.random() < 0.2:
                activations[2, i, p] = round(float(generator.lognormal(0.0, 0.4)), 3)
    digits = FamilyInfo(name="digits", encoding="exclusive", levels=(1, 2), tokens={"1": 1, "22": 2})
    keyword = FamilyInfo(name="keyword", encoding="exclusive", levels=(1,), tokens={"def": 1})
    return World(
        kind="sequence",
        n_features=4,
        samples=tuple(samples),
        activations=activations,
        families=(digits, keyword),
        position_levels={"depth": depth},
        primary="module",
        excluded_positions=(0,),
        decoder=generator.normal(size=(4, 6)).astype(np.float32),
        unembedding=generator.normal(size=(6, len(words))).astype(np.float32),
        output_tokens=tuple(words),
        name="texts",
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Any small world: both kinds, odd tokens, empty samples, units shared or left out, empty features."""
    kind = draw(st.sampled_from(["set", "sequence"]))
    vocabulary = draw(st.lists(st.text(max_size=3), min_size=1, max_size=6, unique=True))
    n = draw(st.integers(1, 12))
    with_units, with_groups = draw(st.booleans()), draw(st.booleans())
    samples = []
    for _ in range(n):
        tokens = tuple(draw(st.lists(st.sampled_from(vocabulary), max_size=5)))
        unit = draw(st.sampled_from(["a", "b", "c", "d"])) if with_units else None
        groups = {"g": draw(st.sampled_from(["x", "y", None]))} if with_groups else {}
        samples.append(WorldSample(tokens, unit, groups))
    excluded = (0,) if kind == "sequence" and draw(st.booleans()) else ()
    places = [
        (s, p) for s in range(n) for p in (range(len(samples[s].tokens)) if kind == "sequence" else [0])
    ]
    n_features = draw(st.integers(1, 4))
    values = st.floats(2.0**-7, 100.0, width=32)
    activations = {
        (f, s, p): draw(values)
        for f in range(n_features)
        for s, p in (draw(st.lists(st.sampled_from(places), unique=True, max_size=12)) if places else [])
    }
    cut = draw(st.integers(0, len(vocabulary)))
    families: tuple[FamilyInfo, ...] = ()
    if cut:
        levels = {t: i + 1 for i, t in enumerate(vocabulary[:cut])}
        families = (
            FamilyInfo(name="f", encoding="exclusive", levels=tuple(sorted(levels.values())), tokens=levels),
        )
    return World(
        kind=kind,  # type: ignore[arg-type]
        n_features=n_features,
        samples=tuple(samples),
        activations=activations,
        families=families,
        excluded_positions=excluded,
        split_seed=draw(st.integers(0, 3)),
    )


def has_rows(world: World) -> bool:
    """Whether any position is counted."""
    if world.kind == "set":
        return True
    return any(p not in world.excluded_positions for s in world.samples for p in range(len(s.tokens)))
