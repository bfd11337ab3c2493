"""Pairs of neighbouring features: how alike their examples are, and which n-grams both have."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.validation.compat_windows import mean_cross_jaccards, ngram_text, top_ngrams
from pipeline.validation.writing import shard_path, write_table
from saeinterp_mcp.patterns.coherence import CoherenceBaseline
from saeinterp_mcp.patterns.ngrams import CHAR_SIZES, WORD_SIZES, char_ngrams, core_of, word_ngrams
from saeinterp_mcp.patterns.records import Group, Window
from saeinterp_mcp.patterns.spelling import spell
from saeinterp_mcp.validation.groups import GroupReader
from saeinterp_mcp.validation.tables import INTERFEATURE_SIMILARITY, Table

NGRAMS = INTERFEATURE_SIMILARITY.schema["ngram_analysis"]
PAIRS = Table(
    "pairs",
    {
        "a": pl.UInt32,
        "b": pl.UInt32,
        "cosines": pl.List(pl.Float32),
        "semantic_similarity": pl.Float32,
        "semantic_percentile": pl.Float32,
        "ngram_jaccard_similarity": pl.List(pl.Float32),
        "lexical_percentile": pl.Float32,
        "ngram_analysis": NGRAMS,
    },
    ("a", "b"),
)
"""A row is a pair, a < b. `cosines`: of the examples of a, one after the other, with each of b; null without
vectors."""
SIZE = 4_096
"""Pairs of a shard."""


class Neighbours(NamedTuple):
    """The nearest features of each by decoder direction, one row a neighbour."""

    main: NDArray[np.int64]
    """Ascending."""
    selected: NDArray[np.int64]
    """Nearest first."""
    cosine: NDArray[np.float32]


def read_neighbours(path: Path, k: int, features: NDArray[np.int64]) -> Neighbours:
    """The `k` nearest of each of `features` (ascending), those that are known."""
    with np.load(path, allow_pickle=False) as file:
        ids, cosines = file["features"][:, :k].astype(np.int64), file["cosines"][:, :k]
    mine = features[features < len(ids)]
    ids, cosines = ids[mine], cosines[mine]
    main = np.repeat(mine, ids.shape[1])
    selected, cosine = ids.ravel(), cosines.ravel().astype(np.float32)
    known = np.isfinite(cosine) & (selected != main)
    return Neighbours(main[known], selected[known], cosine[known])


def unordered(neighbours: Neighbours) -> NDArray[np.int64]:
    """(n, 2) each pair once, the smaller feature first, ascending."""
    pairs = np.sort(np.stack([neighbours.main, neighbours.selected], axis=1), axis=1)
    return np.unique(pairs, axis=0).reshape(-1, 2)


def write_pairs(
    out: Path,
    index: int,
    pairs: NDArray[np.int64],
    reader: GroupReader,
    per_quantile: int,
    core: int,
    baseline: CoherenceBaseline | None,
) -> int:
    """Write a shard of pairs, those whose features both have examples. Without a baseline: as SAE_vis did."""
    groups = reader.groups(np.unique(pairs).tolist(), per_quantile)
    rows = []
    for a, b in pairs.tolist():
        if a in groups and b in groups:
            both = groups[a], groups[b]
            measured = (
                _compat(*both, core) if baseline is None else _pair(*both, reader.is_set, core, baseline)
            )
            rows.append({"a": a, "b": b, "cosines": _cosines(*both)} | measured)
    frame = pl.DataFrame(rows, schema=dict(PAIRS.schema), orient="row")
    write_table(PAIRS, frame, shard_path(out, PAIRS.name, index))
    return len(frame)


def _cosines(a: Group, b: Group) -> list[float] | None:
    if a.vectors is None or b.vectors is None:
        return None
    found = a.vectors.astype(np.float64) @ b.vectors.astype(np.float64).T
    return [float(one) for one in found.ravel()]


def _pair(a: Group, b: Group, is_set: bool, core: int, baseline: CoherenceBaseline) -> dict[str, Any]:
    found = baseline.of_pair(a, b)
    return {
        "semantic_similarity": found.semantic,
        "semantic_percentile": found.semantic_percentile,
        "ngram_jaccard_similarity": list(found.jaccard),
        "lexical_percentile": found.lexical_percentile,
        "ngram_analysis": list(_shared(a, b, is_set, core, found.jaccard)),
    }


def _shared(
    a: Group, b: Group, is_set: bool, core: int, jaccards: Sequence[float | None]
) -> Iterator[dict[str, Any]]:
    """For each size the n-gram that cores of both features hold: most of the one that holds it less, then most of
    both."""
    cores = [[core_of(window, core, is_set) for window in group.windows] for group in (a, b)]
    for i, size in enumerate(WORD_SIZES if is_set else CHAR_SIZES):
        n_a, n_b = (Counter(chain(*(_ngrams(one.tokens, size, is_set) for one in part))) for part in cores)
        if both := n_a.keys() & n_b.keys():
            best = min(both, key=lambda one: (-min(n_a[one], n_b[one]), -n_a[one] - n_b[one], one))
            held = [
                (group.feature, one.prompt, _positions(one, best, size, is_set))
                for group, part in zip((a, b), cores, strict=True)
                for one in part
                if best in _ngrams(one.tokens, size, is_set)
            ]
            yield {
                "ngram": best,
                "ngram_size": size,
                "jaccard_score": jaccards[i],
                "count": sum(len(positions) for _, _, positions in held),
                "occurrences": [
                    {"feature_id": feature, "prompt_id": prompt, "positions": positions}
                    for feature, prompt, positions in held
                ],
            }


@lru_cache(maxsize=16_384)
def _ngrams(tokens: tuple[str, ...], size: int, is_set: bool) -> frozenset[str]:
    text = spell(tokens, is_set).text
    return frozenset(word_ngrams(text, size) if is_set else char_ngrams(text, size))


def _positions(core: Window, ngram: str, size: int, is_set: bool) -> list[int]:
    """Positions in the prompt of the tokens in which its occurrences begin."""
    text, spans = spell(core.tokens, is_set)
    starts = (word_ngrams(text, size) if is_set else char_ngrams(text, size))[ngram]
    at = (next((i for i, (first, end) in enumerate(spans) if first <= start < end), 0) for start in starts)
    return [core.start + i for i in at]


def _compat(a: Group, b: Group, core: int) -> dict[str, Any]:
    """The formulas of SAE_vis; the n-grams are the most frequent of both features together, if only of one."""
    texts = [[ngram_text(window, core) for window in group.windows] for group in (a, b)]
    cross = list(product(range(len(texts[0])), range(len(texts[1]))))
    jaccards = mean_cross_jaccards(cross, texts[0], texts[1], CHAR_SIZES)
    owners = [(group.feature, window) for group in (a, b) for window in group.windows]
    top = top_ngrams([*texts[0], *texts[1]], [one.start + one.at for _, one in owners], CHAR_SIZES)
    cosines = _cosines(a, b)
    return {
        "semantic_similarity": None if cosines is None else float(np.mean(cosines)),
        "ngram_jaccard_similarity": jaccards,
        "ngram_analysis": [
            {
                "ngram": one.text,
                "ngram_size": one.size,
                "jaccard_score": jaccards[CHAR_SIZES.index(one.size)],
                "count": one.n_occurrences,
                "occurrences": [
                    {
                        "feature_id": owners[i][0],
                        "prompt_id": owners[i][1].prompt,
                        "positions": list(positions),
                    }
                    for i, positions in one.occurrences
                ],
            }
            for one in top
        ],
    }
