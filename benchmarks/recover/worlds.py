"""RecoverBench worlds: a bundle with planted features, and what is planted in each.

    from benchmarks.recover.worlds import write_world
    truths = write_world(Path("world/bundle"), "set", seed=0)

The bundle (docs/bundle.md) tells nothing of the rules: families are f01, f02, ..., tokens f01_3 or t_a1, groups g
and h with values g01, h1 and attributes a1, a2; feature ids are shuffled. `NAME.truth.json` beside the folder holds
the truths.

Conventions of `Structure` (truth.py), by stratum:

- level_threshold, confounded: one term; the feature fires at its level and above. The bystander of a confounded
  feature goes closely with the driver and does nothing.
- dose_response: `dose`, threshold the lowest level; strength grows with every level, in half of them the rate too.
- or, and, xor: two terms of different families. gated: one term and `gate`, a value of g or of an attribute of g.
- group_only, attribute_only: `group`, no terms; an attribute's value is carried by three values of g or more.
- suppressor_rate, suppressor_strength: `decreases`; the feature fires at a base rate everywhere, with the term a
  tenth as often, or as often at a third of the strength. The rule is `not (term)`.
- tail_stimulus: the term makes it fire; `tail`, of another family, in a minority of these rows, makes it about
  twice as strong and does nothing where the term is absent.
- absorbed_child, two by two: a parent (one term) that is silent where its child's second term is there, and the
  child (both terms). split_twin, two by two: one rule, each twin on half of the units.
- dense, dead, noise: no structure. Dense fires on 62 to 92 % of rows, noise on 2 to 12 %, with nothing.
- A presence-only family has threshold 1; elsewhere thresholds are levels that exist.

Where the rule holds a feature is silent in 5 to 15 % of rows, elsewhere it fires in .3 to 1 %; firing and strength
are correlated within a unit. Every row's expected activation is known in closed form (`firing.chances`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.recover.firing import FeatureLaw, draw_activations
from benchmarks.recover.planting import plant
from benchmarks.recover.rows import Rows, Schema
from benchmarks.recover.sequences import BOS, draw_sequence_law
from benchmarks.recover.sets import draw_set_law
from benchmarks.recover.truth import Truth
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.frozen import Frozen

WorldKind = Literal["set", "sequence"]
Activations = Literal["ideal", "trained"]
DEFAULT_UNITS: dict[WorldKind, int] = {"set": 7000, "sequence": 1400}
UNITS_TO_JUDGE_BY: dict[WorldKind, int] = {"set": 12_000, "sequence": 1200}
"""Units of the sample by which the support of a rule is judged; never part of a world."""


class RowLaw(Protocol):
    """What rows are drawn from."""

    @property
    def schema(self) -> Schema:
        """Families and groups."""

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Families that go together closely."""

    def draw(self, n_units: int, generator: np.random.Generator) -> Rows:
        """Rows of new units."""


@dataclass(frozen=True)
class Law:
    """Everything of a world but the draw itself: any number of draws share its expectations."""

    kind: WorldKind
    rows: RowLaw
    features: tuple[FeatureLaw, ...]
    """By feature id."""

    @property
    def truths(self) -> list[Truth]:
        """What is planted, by feature."""
        return [
            Truth(feature=i, stratum=f.stratum, structure=f.structure) for i, f in enumerate(self.features)
        ]


def draw_law(kind: WorldKind, seed: int, features_per_stratum: int = 4) -> Law:
    """Names, habits and rules of a world."""
    rows = draw_set_law(seed) if kind == "set" else draw_sequence_law(seed)
    sample = rows.draw(UNITS_TO_JUDGE_BY[kind], rng(seed, "recover", kind, "support"))
    laws = plant(sample, rows.pairs, features_per_stratum, rng(seed, "recover", kind, "rules"))
    return Law(kind, rows, tuple(laws))


def write_world(
    folder: Path,
    kind: WorldKind,
    seed: int,
    n_units: int | None = None,
    features_per_stratum: int = 4,
    activations: Activations = "ideal",
) -> list[Truth]:
    """Draw a world and write it as a bundle; the truths are also beside it.

    Args:
        folder: of the bundle; must not exist.
        kind: set or sequence.
        seed: of names, rules and draws.
        n_units: builds, or documents.
        features_per_stratum: planted of each; 17 times as many features in all.
        activations: those of the planted features, or of an SAE trained on vectors made of them (`trained`).
    """
    law = draw_law(kind, seed, features_per_stratum)
    rows = law.rows.draw(n_units or DEFAULT_UNITS[kind], rng(seed, "recover", kind, "rows"))
    if activations == "trained":
        from benchmarks.recover.trained import write_trained  # torch, which nothing else here needs

        truths = write_trained(folder, law, rows, seed)
    else:
        write_draw(folder, law, rows, seed)
        truths = law.truths
    truth_path(folder).write_text(truth_text(truths), encoding="utf-8")
    return truths


def truth_text(records: Sequence[Frozen]) -> str:
    """Records as a JSON list."""
    return json.dumps([record.model_dump(mode="json") for record in records], indent=1) + "\n"


def truth_path(folder: Path) -> Path:
    """Where the truths of a bundle are kept: beside it, not in it."""
    return folder.with_name(f"{folder.name}.truth.json")


def write_draw(folder: Path, law: Law, rows: Rows, seed: int) -> None:
    """Draw activations on rows and write both as a bundle."""
    found = [
        draw_activations(one, rows, rng(seed, "recover", "activations", feature))
        for feature, one in enumerate(law.features)
    ]
    write_rows(folder, law, rows)
    feature = np.repeat(np.arange(len(found)), [len(fires) for fires, _ in found])
    fires = np.concatenate([fires for fires, _ in found]).astype(np.int64)
    write_activations(folder, rows, feature, fires, np.concatenate([values for _, values in found]))


def write_activations(folder: Path, rows: Rows, feature: Any, row: Any, value: Any) -> None:
    """Write entries (feature, row, value) as `activations.parquet`."""
    table = pa.table(
        {
            "feature": feature.astype(np.uint32),
            "sample": rows.sample[row].astype(np.uint32),
            "position": rows.position[row].astype(np.uint16),
            "value": value.astype(np.float32),
        }
    )
    pq.write_table(table, folder / "activations.parquet", compression="zstd")


def write_rows(folder: Path, law: Law, rows: Rows, n_features: int | None = None) -> None:
    """Write the rest of a bundle: samples, positions, attributes of g, `bundle.yaml`."""
    folder.mkdir(parents=True)
    schema = rows.schema
    starts = np.flatnonzero(np.append(True, rows.sample[1:] != rows.sample[:-1]))
    columns: dict[str, Any] = {
        "tokens": _tokens_of_samples(rows, starts, law.kind),
        "unit": [f"u{u}" for u in rows.unit[starts].tolist()],
    }
    for group in schema.groups:
        columns[group.name] = [group.values[v] for v in rows.groups[group.name][starts].tolist()]
    pl.DataFrame(columns, schema_overrides={"tokens": pl.List(pl.String)}).write_parquet(
        folder / "samples.parquet"
    )
    of_positions = [f for f in schema.families if f.of_positions]
    if of_positions:
        some = rows.levels[:, [schema.index(f.name) for f in of_positions]]
        table: dict[str, Any] = {"sample": rows.sample, "position": rows.position}
        table |= {f.name: some[:, i] for i, f in enumerate(of_positions)}
        pl.DataFrame(table).write_parquet(folder / "positions.parquet")
    g = schema.group("g")
    pl.DataFrame({"g": g.values, **g.attributes}).write_parquet(folder / "g_attributes.parquet")
    config = _config(law, n_features or len(law.features))
    (folder / "bundle.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def _config(law: Law, n_features: int) -> dict[str, Any]:
    families = [
        {"name": f.name, "encoding": f.encoding, "levels": {f.token(level): level for level in f.levels}}
        for f in law.rows.schema.families
        if not f.of_positions
    ]
    config: dict[str, Any] = {
        "name": "recover",
        "kind": law.kind,
        "n_features": n_features,
        "families": families,
        "groups": [{"name": "g", "primary": True, "attributes": "g_attributes.parquet"}, {"name": "h"}],
    }
    return config if law.kind == "set" else {**config, "excluded_positions": [0]}


def _tokens_of_samples(rows: Rows, starts: Any, kind: WorldKind) -> list[list[str]]:
    """Tokens of each sample; a cumulative level brings those below it."""
    schema = rows.schema
    held: list[list[str]] = [[] for _ in range(len(rows))]
    for i, family in enumerate(schema.families):
        if family.of_positions:
            continue
        for level in family.levels:
            column = rows.levels[:, i]
            has = column >= level if family.encoding == "cumulative" else column == level
            for row in np.flatnonzero(has).tolist():
                held[row].append(family.token(level))
    for i, token in enumerate(schema.fillers):
        for row in np.flatnonzero(rows.fillers[:, i]).tolist():
            held[row].append(token)
    if kind == "set":
        return held
    assert all(len(tokens) == 1 for tokens in held), "a position has one token"
    samples = np.split(np.array([tokens[0] for tokens in held]), starts[1:])
    return [[BOS, *tokens.tolist()] for tokens in samples]
