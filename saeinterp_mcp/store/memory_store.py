"""A backend in memory, small and obvious: everything from a dense matrix, by the definitions.

Tests take it as the truth. Nothing here is fast, and nothing shares code with the pipeline but the definitions
it must agree on (split hashes, seeded draws, the vocabulary of the layout).
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from saeinterp_mcp.analysis.examples import from_core, spread_over_quantiles, token_log_odds
from saeinterp_mcp.analysis.sampling import one_per_unit, random_pairs, rng, seeded_hash, uniform_silent
from saeinterp_mcp.analysis.splits import content_unit, in_explain, unit_hash
from saeinterp_mcp.labels.database import LabelsInMemory
from saeinterp_mcp.store.base import AnyArray, Backend, Bools, Store
from saeinterp_mcp.store.layout import (
    EXAMPLES,
    HISTOGRAM_BINS,
    N_RANDOM_QUANTILES,
    NEIGHBOURS,
    NO_INDEX,
    OUTPUTS,
    QUANTILES,
    REGION_UPPER_EDGES,
    REGIONS,
    SUMMED_FROM,
    SUMMED_VALUES,
    TOP,
)
from saeinterp_mcp.store.manifest import FamilyInfo, GroupInfo, Kind, Manifest, Segment
from saeinterp_mcp.store.memory_sums import RowsByUnit, carries, influence_of_tokens, sums_of_labels

NONE_VALUE = "(none)"


@dataclass(frozen=True)
class WorldSample:
    """One sample of a world."""

    tokens: tuple[str, ...]
    unit: str | None = None
    groups: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """A small data set written out: what a bundle holds, as plain Python values."""

    kind: Kind
    n_features: int
    samples: tuple[WorldSample, ...]
    activations: dict[tuple[int, int, int], float]
    """(feature, sample, position) to activation."""
    families: tuple[FamilyInfo, ...] = ()
    position_levels: dict[str, dict[tuple[int, int], int]] = field(default_factory=dict)
    """Family of positions to (sample, position) to level."""
    primary: str | None = None
    attributes: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    """Group to value to attribute to its value."""
    excluded_positions: tuple[int, ...] = ()
    split_seed: int = 0
    decoder: NDArray[np.float32] | None = None
    unembedding: NDArray[np.float32] | None = None
    output_tokens: tuple[str, ...] = ()
    name: str = "world"


class MemoryBackend(Backend):
    """Arrays and tables in dictionaries."""

    def __init__(
        self, manifest: Manifest, arrays: dict[str, AnyArray], tables: dict[str, pl.DataFrame]
    ) -> None:
        self._manifest, self._arrays, self._tables = manifest, arrays, tables

    def manifest(self) -> Manifest:
        """What the store holds."""
        return self._manifest

    def has(self, name: str) -> bool:
        """Whether the store holds the array."""
        return name in self._arrays

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array."""
        return self._arrays[name].shape

    def span(self, name: str, start: int, stop: int) -> AnyArray:
        """A copy of the entries."""
        return self._arrays[name][start:stop].copy()

    def column(self, name: str) -> AnyArray:
        """The whole array."""
        return self._arrays[name]

    def table(self, name: str) -> pl.DataFrame:
        """A table."""
        return self._tables[name]


def memory_store(world: World, seed: int = 0, summed_from: int = SUMMED_FROM) -> Store:
    """A store of a world, every array computed by its definition.

    Args:
        world: what it holds.
        seed: of the draws.
        summed_from: firings from which a feature's sums by label are kept.
    """
    return Store(_Truth(world, seed, summed_from).backend(), labels=LabelsInMemory())


class _Truth:
    def __init__(self, world: World, seed: int, summed_from: int) -> None:
        self.world, self.seed, self.summed_from = world, seed, summed_from
        self.label_sets: dict[str, Bools] = {}
        """(rows, labels) whether a row carries a label, of each set in the order of the layout."""
        self.arrays: dict[str, AnyArray] = {}
        self.tables: dict[str, pl.DataFrame] = {}
        own = [s.unit if s.unit is not None else content_unit(s.tokens, world.kind) for s in world.samples]
        place = {u: (unit_hash(u, world.split_seed), u) for u in own}
        self.units = sorted(place, key=place.__getitem__)
        self.n_explain_units = sum(in_explain(place[u][0]) for u in self.units)
        self.order = sorted(range(len(own)), key=lambda s: (place[own[s]], s))
        self.unit_of = [self.units.index(own[s]) for s in self.order]
        self.samples = [world.samples[s] for s in self.order]
        self.tokens = sorted({t for s in self.samples for t in s.tokens})
        # a row: (sample, position, tokens present)
        self.rows: list[tuple[int, int, tuple[str, ...]]] = []
        for i, sample in enumerate(self.samples):
            if world.kind == "set":
                self.rows.append((i, 0, tuple(sorted(set(sample.tokens)))))
            else:
                kept = [p for p in range(len(sample.tokens)) if p not in world.excluded_positions]
                self.rows += [(i, p, (sample.tokens[p],)) for p in kept]
        self.row_unit = np.array([self.unit_of[s] for s, _, _ in self.rows], np.int64)
        self.n_explain = sum(u < self.n_explain_units for u in self.row_unit.tolist())
        self.dense = np.zeros((len(self.rows), world.n_features), np.float32)
        row_of = {(self.order[s], p): r for r, (s, p, _) in enumerate(self.rows)}
        for (feature, s, position), value in world.activations.items():
            if (s, position) in row_of:
                self.dense[row_of[s, position], feature] = value
        self.row_of = row_of

    def backend(self) -> MemoryBackend:
        self._samples()
        families, groups = self._families(), self._groups()
        self._postings()
        self._stats()
        self._sums()
        self._examples()
        self._weights()
        self._neighbours()
        self._vocabulary()
        w = self.world
        manifest = Manifest(
            name=w.name,
            kind=w.kind,
            n_features=w.n_features,
            n_samples=len(self.samples),
            n_rows=len(self.rows),
            n_positions_stored=len(self.rows)
            if w.kind == "set"
            else sum(len(s.tokens) for s in self.samples),
            n_activations=int((self.dense > 0).sum()),
            n_units=len(self.units),
            n_explain={
                "samples": sum(u < self.n_explain_units for u in self.unit_of),
                "rows": self.n_explain,
                "units": self.n_explain_units,
            },
            split_seed=w.split_seed,
            excluded_positions=w.excluded_positions,
            families=families,
            groups=groups,
            seeds={"examples": self.seed, "random_pairs": self.seed},
            segments=(Segment(n_samples=len(self.samples)),),
        )
        return MemoryBackend(manifest, self.arrays, self.tables)

    def _samples(self) -> None:
        put = self.arrays.__setitem__
        lists = [
            sorted({self.tokens.index(t) for t in s.tokens})
            if self.world.kind == "set"
            else [self.tokens.index(t) for t in s.tokens]
            for s in self.samples
        ]
        n_rows = [sum(s == i for s, _, _ in self.rows) for i in range(len(self.samples))]
        put("rows/unit", self.row_unit.astype(np.uint32))
        put("rows/sample", np.array([s for s, _, _ in self.rows], np.uint32))
        put("rows/position", np.array([p for _, p, _ in self.rows], np.uint32))
        put("samples/unit", np.array(self.unit_of, np.uint32))
        put("samples/source", np.array(self.order, np.int64))
        put("samples/tokens", np.array([t for one in lists for t in one], np.uint32))
        put("samples/first_token", np.array([0, *np.cumsum([len(one) for one in lists])], np.int64))
        put("samples/first_row", np.array([0, *np.cumsum(n_rows)], np.int64))
        put(
            "units/first_row",
            np.array([sum(self.row_unit < u) for u in range(len(self.units) + 1)], np.int64),
        )
        rows_of_unit = np.array([(self.row_unit == u).sum() for u in range(len(self.units))], float)
        put(
            "counts/unit_nn",
            np.array([(rows_of_unit[: self.n_explain_units] ** 2).sum(), (rows_of_unit**2).sum()]),
        )
        self.tables["samples"] = pl.DataFrame({"unit": [self.units[u] for u in self.unit_of]})
        labels = [[self.tokens.index(t) for t in held] for _, _, held in self.rows]
        self._count("tokens", labels, len(self.tokens), "rest")
        self.tokens_of_rows = carries(labels, len(self.tokens))

    def _count(self, name: str, labels: list[list[int]], k: int, reference: str) -> None:
        """n, units and products by counting each unit's rows label by label."""
        by_unit = [Counter[int]() for _ in self.units]
        total = [0] * len(self.units)
        for unit, held in zip(self.row_unit.tolist(), labels, strict=True):
            total[unit] += 1
            by_unit[unit].update(held)
        out: dict[str, Any] = {f: np.zeros((2, k)) for f in ("n", "units", "rest_units", "nn", "n_reference")}
        for split, n_units in enumerate((self.n_explain_units, len(self.units))):
            for counts, rows in list(zip(by_unit, total, strict=True))[:n_units]:
                for label in range(k):
                    n = counts[label]
                    out["n"][split, label] += n
                    out["units"][split, label] += n > 0
                    out["rest_units"][split, label] += rows > 0 and n < rows
                    out["nn"][split, label] += n * n
                    out["n_reference"][split, label] += n * (counts[0] if reference == "level_0" else rows)
        for f, array in out.items():
            self.arrays[f"counts/{name}/{f}"] = (
                array if f in ("nn", "n_reference") else array.astype(np.int64)
            )
        pairs = [(label, counts[label]) for counts in by_unit for label in sorted(counts)]
        self.arrays[f"counts/{name}/indptr"] = np.array([0, *np.cumsum([len(c) for c in by_unit])], np.int64)
        self.arrays[f"counts/{name}/labels"] = np.array([label for label, _ in pairs], np.uint32)
        self.arrays[f"counts/{name}/pair_n"] = np.array([n for _, n in pairs], np.uint32)

    def _families(self) -> tuple[FamilyInfo, ...]:
        infos = list(self.world.families)
        for info in infos:
            held = [max((info.tokens.get(t, 0) for t in tokens), default=0) for _, _, tokens in self.rows]
            self._codes(info, held)
        for name, levels in sorted(self.world.position_levels.items()):
            held = [levels.get((self.order[s], p), 0) for s, p, _ in self.rows]
            present = tuple(sorted({v for v in levels.values() if v}))
            info = FamilyInfo(name=name, encoding="exclusive", levels=present, of_positions=True)
            self._codes(info, held)
            infos.append(info)
        return tuple(infos)

    def _codes(self, info: FamilyInfo, levels: list[int]) -> None:
        codes = [info.levels.index(v) + 1 if v else 0 for v in levels]
        self.arrays[f"codes/{info.name}"] = np.array(codes, np.uint8)
        self._count(f"family.{info.name}", [[c] for c in codes], len(info.levels) + 1, "level_0")
        levels_of_rows = carries([[c] for c in codes], len(info.levels) + 1)
        self.label_sets[f"family.{info.name}"] = np.column_stack([levels_of_rows, ~levels_of_rows[:, 0]])

    def _groups(self) -> tuple[GroupInfo, ...]:
        names = sorted({g for s in self.samples for g in s.groups})
        if self.world.primary:
            names.sort(key=lambda g: g != self.world.primary)
        infos = []
        for name in names:
            of_sample = [s.groups.get(name) or NONE_VALUE for s in self.samples]
            values = sorted(set(of_sample))
            table = self.world.attributes.get(name, {})
            attributes = sorted({a for one in table.values() for a in one})
            infos.append(
                GroupInfo(
                    name=name,
                    values=tuple(values),
                    primary=name == (self.world.primary or names[0]),
                    attributes={
                        a: tuple(table.get(v, {}).get(a, NONE_VALUE) for v in values) for a in attributes
                    },
                )
            )
            codes = [values.index(v) for v in of_sample]
            self.arrays[f"groups/{name}"] = np.array(codes, np.uint8)
            self._count(f"group.{name}", [[codes[s]] for s, _, _ in self.rows], len(values), "rest")
            if len(values) <= SUMMED_VALUES:
                self.label_sets[f"group.{name}"] = carries([[codes[s]] for s, _, _ in self.rows], len(values))
        return tuple(infos)

    def _postings(self) -> None:
        for prefix, matrix, minor in (("features", self.dense.T, "rows"), ("rows", self.dense, "features")):
            major, index = np.nonzero(matrix)
            self.arrays[f"{prefix}/indptr"] = np.array([0, *np.cumsum((matrix > 0).sum(1))], np.int64)
            self.arrays[f"{prefix}/{minor}"] = index.astype(np.uint32)
            self.arrays[f"{prefix}/values"] = matrix[major, index]

    def _splits(self, feature: int) -> list[NDArray[np.float64]]:
        column = self.dense[:, feature].astype(np.float64)
        return [column[: self.n_explain], column]

    def _stats(self) -> None:
        f = self.world.n_features
        names = [
            "n_firing",
            "n_firing_units",
            "sum",
            "sumsq",
            "max",
            "unit_ss",
            "unit_sn",
            "unit_cc",
            "unit_cn",
        ]
        stats = {name: np.zeros((f, 2)) for name in names}
        quantiles = np.full((f, 2, len(QUANTILES)), np.nan, np.float32)
        maximum = np.full(f, np.nan, np.float32)
        regions, histogram = (
            np.zeros((f, 2, len(REGIONS)), np.int64),
            np.zeros((f, 2, HISTOGRAM_BINS), np.uint32),
        )
        top_rows = np.full((f, 2, TOP), NO_INDEX, np.uint32)
        top_values = np.full((f, 2, TOP), np.nan, np.float32)
        for feature in range(f):
            explain = self._splits(feature)[0]
            if (explain > 0).sum() >= 20:
                maximum[feature] = np.quantile(explain[explain > 0], 0.995)
            for split, column in enumerate(self._splits(feature)):
                units = self.row_unit[: len(column)]
                stats["n_firing"][feature, split] = (column > 0).sum()
                stats["sum"][feature, split] = column.sum()
                stats["sumsq"][feature, split] = (column**2).sum()
                stats["max"][feature, split] = column.max(initial=0)
                for u in set(units.tolist()):
                    s, c, n = column[units == u].sum(), (column[units == u] > 0).sum(), (units == u).sum()
                    stats["n_firing_units"][feature, split] += c > 0
                    for name, value in (
                        ("unit_ss", s * s),
                        ("unit_sn", s * n),
                        ("unit_cc", c * c),
                        ("unit_cn", c * n),
                    ):
                        stats[name][feature, split] += value
                fires = column[column > 0]
                if len(fires):
                    quantiles[feature, split] = np.quantile(fires, QUANTILES)
                for value in fires.tolist():
                    octave = int(np.floor((np.log2(value) + 16) * 8))
                    histogram[feature, split, min(max(octave, 0), HISTOGRAM_BINS - 1)] += 1
                    if np.isfinite(maximum[feature]):
                        share = value / float(maximum[feature])
                        regions[feature, split, sum(share > edge for edge in REGION_UPPER_EDGES)] += 1
                best = sorted(np.flatnonzero(column).tolist(), key=lambda r: (-column[r], r))[:TOP]
                top_rows[feature, split, : len(best)] = best
                top_values[feature, split, : len(best)] = column[best]
        kinds = {"n_firing": np.int64, "n_firing_units": np.int64, "max": np.float32}
        self.arrays |= {
            f"stats/{name}": array.astype(kinds.get(name, np.float64)) for name, array in stats.items()
        }
        self.arrays |= {
            "stats/quantiles": quantiles,
            "stats/effective_max": maximum,
            "stats/regions": regions,
        }
        self.arrays |= {"stats/histogram": histogram, "top/rows": top_rows, "top/values": top_values}

    def _sums(self) -> None:
        dense = np.flatnonzero((self.dense > 0).sum(0) >= self.summed_from)
        place = np.full(self.world.n_features, NO_INDEX, np.uint32)
        place[dense] = np.arange(len(dense))
        activations = self.dense[:, dense].astype(np.float64)
        rows = RowsByUnit(self.row_unit, self.n_explain)
        self.arrays["sums/place"] = place
        self.arrays["sums/labels"] = sums_of_labels(rows, activations, self.label_sets)
        self.arrays |= influence_of_tokens(rows, activations, self.tokens_of_rows)

    def _examples(self) -> None:
        lists = {
            pick: np.full((self.world.n_features, EXAMPLES), NO_INDEX, np.uint32)
            for pick in ("spread", "core", "near_miss", "silent")
        }
        n = self.n_explain
        for feature in range(self.world.n_features):
            column = self.dense[:n, feature]
            rows = np.flatnonzero(column)
            maximum = float(self.arrays["stats/effective_max"][feature])
            chosen = {
                "spread": spread_over_quantiles(
                    rows, column[rows], self.row_unit, EXAMPLES, rng(self.seed, "spread", feature)
                ),
                "core": from_core(
                    rows, column[rows], maximum, self.row_unit, EXAMPLES, rng(self.seed, "core", feature)
                ),
                "near_miss": self._near_misses(feature),
                "silent": uniform_silent(rows, n, EXAMPLES, rng(self.seed, "silent", feature)),
            }
            for pick, taken in chosen.items():
                lists[pick][feature, : len(taken)] = taken
        self.arrays |= {f"examples/{pick}": array for pick, array in lists.items()}

    def _near_misses(self, feature: int) -> NDArray[np.int64]:
        """Score every silent row by adding up its tokens' log-odds."""
        column = self.dense[: self.n_explain, feature]
        if not column.any():
            return np.zeros(0, np.int64)
        odds = {}
        for token in self.tokens:
            has = np.array([token in held for _, _, held in self.rows[: self.n_explain]])
            k, n = float((column[has] > 0).sum()), float(has.sum())
            odds[token] = float(
                token_log_odds(np.array(k), np.array(n), np.array(float((column > 0).sum())), self.n_explain)
            )
        silent = np.flatnonzero(column == 0)
        score = [round(sum(odds[t] for t in self.rows[r][2]), 9) for r in silent.tolist()]
        tie = seeded_hash(silent, self.seed, "near_miss", feature).tolist()
        order = sorted(range(len(silent)), key=lambda i: (-score[i], tie[i]))
        return one_per_unit(silent[order], self.row_unit, EXAMPLES)

    def _weights(self) -> None:
        w = self.world
        self.tables["outputs"] = pl.DataFrame({"token": list(w.output_tokens)}, schema={"token": pl.String})
        if w.decoder is None:
            return
        self.arrays["weights/decoder"] = w.decoder
        if w.unembedding is None:
            return
        centred = (w.unembedding - w.unembedding.mean(1, keepdims=True, dtype=np.float64)).T.astype(
            np.float32
        )
        self.arrays["weights/unembedding"] = centred
        effects = np.round(w.decoder.astype(np.float64) @ centred.T.astype(np.float64), 9)
        self.arrays["outputs/norm"] = np.sqrt((effects**2).sum(1)).astype(np.float32)
        for side, sign in (("promoted", -1), ("suppressed", 1)):
            tokens = np.full((len(effects), OUTPUTS), NO_INDEX, np.uint32)
            values = np.full((len(effects), OUTPUTS), np.nan, np.float32)
            for f, row in enumerate(effects):
                best = sorted(range(len(row)), key=lambda o: (sign * row[o], o))[:OUTPUTS]
                tokens[f, : len(best)], values[f, : len(best)] = best, row[best]
            self.arrays[f"outputs/{side}/tokens"], self.arrays[f"outputs/{side}/effects"] = tokens, values

    def _neighbours(self) -> None:
        fires = (self.dense[: self.n_explain] > 0).astype(float)
        n = self.world.n_features
        phi = np.zeros((n, n))
        for a in range(n):
            for b in range(n):
                if all(0 < fires[:, k].sum() < len(fires) for k in (a, b)):
                    phi[a, b] = np.corrcoef(fires[:, a], fires[:, b])[0, 1]
        self._nearest("coactivation", phi)
        if self.world.decoder is not None:
            d = self.world.decoder.astype(np.float64)
            lengths = np.linalg.norm(d, axis=1)
            scale = np.outer(lengths, lengths)
            self._nearest("decoder", np.where(scale > 0, d @ d.T / np.where(scale > 0, scale, 1), 0))

    def _nearest(self, by: str, scores: NDArray[np.float64]) -> None:
        n = len(scores)
        features = np.full((n, NEIGHBOURS), NO_INDEX, np.uint32)
        values = np.full((n, NEIGHBOURS), np.nan, np.float32)
        scores = np.round(scores, 9)
        for a in range(n):
            others = sorted((b for b in range(n) if b != a), key=lambda b: (-scores[a, b], b))[:NEIGHBOURS]
            features[a, : len(others)], values[a, : len(others)] = others, scores[a, others]
        self.arrays[f"neighbours/{by}/features"], self.arrays[f"neighbours/{by}/scores"] = features, values
        pairs = np.zeros(1) if n == 1 else scores[random_pairs(n, self.seed, by)]
        self.arrays[f"neighbours/{by}/random"] = np.quantile(
            pairs, np.linspace(0, 1, N_RANDOM_QUANTILES)
        ).astype(np.float32)

    def _vocabulary(self) -> None:
        held = [{t for s, _, tokens in self.rows if s == i for t in tokens} for i in range(len(self.samples))]
        df = [sum(t in one for one in held) for t in self.tokens]
        self.arrays["vocabulary/samples"] = np.array(df, np.int64)
        idf = [float(np.log(len(self.samples) + 1) - np.log(n + 1)) if n else None for n in df]
        self.tables["vocabulary"] = pl.DataFrame(
            {"token": self.tokens, "samples": df, "idf": idf},
            schema_overrides={"token": pl.String, "idf": pl.Float64},
        )
