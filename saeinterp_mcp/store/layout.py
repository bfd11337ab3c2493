"""Every array of a store, by name, with its shape, so that all backends hold the same.

Letters in shapes: F features, N samples, R rows (counted positions), T stored tokens, U units, A activations,
V tokens of the vocabulary, O output tokens, K labels of one set (levels of a family with 0 = none, values of a
group, tokens), D dense features (of SUMMED_FROM firings and more), L their labels: of each family all levels, 0 first,
then any level; after them the values of each group of at most SUMMED_VALUES. An axis of 2 is the split: 0 `explain`,
1 `all`. Rows, samples and units are in one order: by a hash of (unit, split_seed), so a unit's rows are neighbours and
the `explain` split is a prefix of everything.
A store that was appended to has several segments. Everything is in the order above but the activations of a segment:
they are stored by the segment's own rows, whose places among the rows of the store `segments/*/store_row` tells
(segment 0's activations are `features/*` and `rows/*`). So an append writes no activation again.
Sentinels pad lists that are shorter than their axis: 2^32 - 1 in u32, NaN in f32 and f64.
"""

from typing import NamedTuple

TOP = 128
EXAMPLES = 24
NEIGHBOURS = 64
OUTPUTS = 64
QUANTILES = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 0.995, 1.0)
HISTOGRAM_BINS = 256
HISTOGRAM_FIRST_LOG2 = -16.0
HISTOGRAM_PER_OCTAVE = 8
NO_INDEX = 2**32 - 1
N_RANDOM_QUANTILES = 1001
INFLUENCE = 32
SUMMED_FROM = 16_384
"""Firings from which a feature's sums by label are stored; those of others are quicker to compute than to keep."""
SUMMED_VALUES = 1024
"""Values up to which a group's sums are stored."""
LABEL_SUMS = (
    "firing_units", "only",
    "s", "ss", "sn", "s_base_ss", "s_base_sn", "s_base_ns",
    "c", "cc", "cn", "c_base_ss", "c_base_sn", "c_base_ns",
)  # fmt: skip
"""Sums over units of a label, S = the unit's activation at rows with it, c = its firing ones, n = its rows. Units with
c > 0, and those of which no other row fires; S, S^2, S n; with the base, the unit's rows of level 0 (of a level) or all
its rows (of a value or a token): S S_base, S n_base, n S_base; the same of c."""

REGIONS = ("floor", "low", "below_core", "core", "high", "tail")
REGION_UPPER_EDGES = (0.01, 0.10, 0.25, 0.75, 0.90)
"""Shares of the effective maximum; a region holds its upper edge (design 3)."""


class ArraySpec(NamedTuple):
    """One array: name (`*` stands for a family, group or label set), dtype, shape in words, meaning."""

    name: str
    dtype: str
    shape: str
    meaning: str


ARRAYS = (
    ArraySpec("features/indptr", "i8", "F+1", "where a feature's activations begin"),
    ArraySpec("features/rows", "u4", "A", "rows where it fires, ascending"),
    ArraySpec("features/values", "f4", "A", "its activations there"),
    ArraySpec("rows/indptr", "i8", "R+1", "where a row's activations begin"),
    ArraySpec("rows/features", "u4", "A", "features firing at the row, ascending"),
    ArraySpec("rows/values", "f4", "A", "their activations"),
    ArraySpec("segments/*/features/indptr", "i8", "F+1", "the same of a later segment, by its own rows"),
    ArraySpec("segments/*/features/rows", "u4", "A", "rows of the segment"),
    ArraySpec("segments/*/features/values", "f4", "A", "activations there"),
    ArraySpec("segments/*/rows/indptr", "i8", "R+1", "by the segment's own rows"),
    ArraySpec("segments/*/rows/features", "u4", "A", "features firing at the row"),
    ArraySpec("segments/*/rows/values", "f4", "A", "their activations"),
    ArraySpec("segments/*/store_row", "u4", "R", "row of the store of each row of the segment, ascending"),
    ArraySpec(
        "source/store_row", "u4", "rows of the source", "row of the store, where activations are not its own"
    ),
    ArraySpec("rows/unit", "u4", "R", "unit of the row"),
    ArraySpec("rows/sample", "u4", "R", "sample of the row"),
    ArraySpec("rows/position", "u4", "R", "position in the sample"),
    ArraySpec("units/first_row", "i8", "U+1", "rows of a unit"),
    ArraySpec("samples/unit", "u4", "N", "unit of the sample"),
    ArraySpec("samples/source", "i8", "N", "row of the sample in the input"),
    ArraySpec("samples/first_row", "i8", "N+1", "rows of a sample"),
    ArraySpec("samples/first_token", "i8", "N+1", "tokens of a sample, excluded positions too"),
    ArraySpec("samples/tokens", "u4", "T", "token ids: in order (sequence), ascending without repeats (set)"),
    ArraySpec("codes/*", "u1|u2", "R", "code of the family's level at the row, 0 = none"),
    ArraySpec("groups/*", "u1|u2|u4", "N", "index of the sample's value"),
    ArraySpec("counts/*/n", "i8", "2, K", "rows with the label"),
    ArraySpec("counts/*/units", "i8", "2, K", "units with such a row"),
    ArraySpec("counts/*/rest_units", "i8", "2, K", "units with a row that lacks the label"),
    ArraySpec("counts/*/nn", "f8", "2, K", "sum over units of n^2"),
    ArraySpec(
        "counts/*/n_reference", "f8", "2, K", "sum over units of n * n(level 0), or n * rows of the unit"
    ),
    ArraySpec("counts/*/indptr", "i8", "U+1", "where a unit's labels begin"),
    ArraySpec("counts/*/labels", "u4", "pairs", "labels of the unit, ascending"),
    ArraySpec("counts/*/pair_n", "u4", "pairs", "its rows with that label"),
    ArraySpec("counts/unit_nn", "f8", "2", "sum over units of rows^2"),
    ArraySpec("vocabulary/samples", "i8", "V", "samples holding the token (both splits)"),
    ArraySpec("stats/n_firing", "i8", "F, 2", "rows where the feature fires"),
    ArraySpec("stats/n_firing_units", "i8", "F, 2", "units where it fires"),
    ArraySpec("stats/sum", "f8", "F, 2", "sum of activations"),
    ArraySpec("stats/sumsq", "f8", "F, 2", "sum of squares"),
    ArraySpec("stats/max", "f4", "F, 2", "largest activation, 0 if none"),
    ArraySpec("stats/unit_ss", "f8", "F, 2", "sum over units of S^2, S = sum of activations of the unit"),
    ArraySpec("stats/unit_sn", "f8", "F, 2", "sum over units of S * rows"),
    ArraySpec("stats/unit_cc", "f8", "F, 2", "sum over units of c^2, c = firing rows of the unit"),
    ArraySpec("stats/unit_cn", "f8", "F, 2", "sum over units of c * rows"),
    ArraySpec("stats/quantiles", "f4", "F, 2, 11", "quantiles (layout.QUANTILES) of the activations"),
    ArraySpec("stats/effective_max", "f4", "F", "99.5th percentile in `explain`, NaN under 20 firings"),
    ArraySpec("stats/regions", "i8", "F, 2, 6", "firing rows by region (layout.REGIONS)"),
    ArraySpec(
        "stats/histogram", "u4", "F, 2, 256", "activations by shared log2 bins, 8 per octave from 2^-16"
    ),
    ArraySpec("sums/place", "u4", "F", "place of a dense feature in sums and influence, else the sentinel"),
    ArraySpec("sums/labels", "f8", "D, 2, L, 14", "sums over units (layout.LABEL_SUMS) by label"),
    ArraySpec("influence/tokens", "u4", "D, 2, 32", "tokens going most with it; against it (`explain`)"),
    ArraySpec("influence/sums", "f8", "D, 2, 32, 14", "their sums over units (layout.LABEL_SUMS)"),
    ArraySpec("influence/q", "f8", "D, 2, 32", "their q among all tokens tested"),
    ArraySpec("top/rows", "u4", "F, 2, 128", "strongest rows, by (-activation, row)"),
    ArraySpec("top/values", "f4", "F, 2, 128", "their activations"),
    ArraySpec("examples/spread", "u4", "F, 24", "rows drawn evenly over the quantiles, strongest first"),
    ArraySpec("examples/core", "u4", "F, 24", "rows drawn from the core region"),
    ArraySpec("examples/near_miss", "u4", "F, 24", "silent rows whose tokens go most with firing"),
    ArraySpec("examples/silent", "u4", "F, 24", "rows drawn uniformly from the silent ones"),
    ArraySpec("neighbours/coactivation/features", "u4", "F, 64", "features that fire on the same rows"),
    ArraySpec("neighbours/coactivation/scores", "f4", "F, 64", "phi coefficient of firing, `explain` rows"),
    ArraySpec("neighbours/coactivation/random", "f4", "1001", "quantiles of the score of random pairs"),
    ArraySpec("neighbours/decoder/features", "u4", "F, 64", "features of like decoder direction"),
    ArraySpec("neighbours/decoder/scores", "f4", "F, 64", "cosine of decoder directions"),
    ArraySpec("neighbours/decoder/random", "f4", "1001", "quantiles of the score of random pairs"),
    ArraySpec("outputs/promoted/tokens", "u4", "F, 64", "output tokens raised most"),
    ArraySpec(
        "outputs/promoted/effects", "f4", "F, 64", "by how much; a softmax's mean over outputs removed"
    ),
    ArraySpec("outputs/suppressed/tokens", "u4", "F, 64", "output tokens lowered most"),
    ArraySpec("outputs/suppressed/effects", "f4", "F, 64", "by how much"),
    ArraySpec("outputs/norm", "f4", "F", "L2 norm of the effect over output tokens"),
    ArraySpec("weights/decoder", "f4", "F, d", "decoder directions"),
    ArraySpec(
        "weights/unembedding",
        "f4",
        "O, d",
        "unembedding by output token; a softmax's mean over outputs removed",
    ),
)


def spec_of(name: str) -> ArraySpec:
    """The specification of an array; a name that is not in `ARRAYS` is our bug."""
    parts = name.split("/")
    for spec in ARRAYS:
        pattern = spec.name.split("/")
        if len(pattern) == len(parts) and all(p in ("*", q) for p, q in zip(pattern, parts, strict=True)):
            return spec
    raise AssertionError(f"{name} is not an array of the layout")
