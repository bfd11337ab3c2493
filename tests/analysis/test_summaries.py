"""The summary of a feature: worked out by hand, and against NumPy on many activations."""

import numpy as np
import pytest

from saeinterp_mcp.analysis.firing import count_regions, effective_max, histogram_bin, strongest
from saeinterp_mcp.analysis.summaries import SUMMARY_SHAPES, quantiles_of_sorted, summarise
from saeinterp_mcp.store.layout import HISTOGRAM_BINS, NO_INDEX, QUANTILES, TOP


def made_up(n_rows: int, share: float, longest_unit: int, seed: int):  # type: ignore[no-untyped-def]
    """Rows, values, unit of each row, rows of each unit, and how many of the firing rows are `explain`."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest_unit + 1, n_rows)
    first = np.minimum(np.cumsum(lengths), n_rows)
    unit_rows = np.diff(np.concatenate([[0], first[: np.searchsorted(first, n_rows) + 1]]))
    row_unit = np.repeat(np.arange(len(unit_rows), dtype=np.uint32), unit_rows)
    rows = np.flatnonzero(generator.random(n_rows) < share)
    values = np.exp(2 * generator.standard_normal(len(rows))).astype(np.float32)
    n_explain_rows = unit_rows[: len(unit_rows) * 7 // 10].sum()
    return rows, values, row_unit, unit_rows, int(np.searchsorted(rows, n_explain_rows))


def test_sums_by_unit_are_those_worked_out() -> None:
    row_unit, unit_rows = np.array([0, 0, 1, 2, 2], np.uint32), np.array([2, 1, 2])
    rows, values = np.array([0, 1, 4]), np.array([2, 3, 5], np.float32)
    found = summarise((rows[:2], values[:2]), (rows, values), row_unit, unit_rows)
    names = ("n_firing", "n_firing_units", "sum", "sumsq", "max", "unit_ss", "unit_sn", "unit_cc", "unit_cn")
    assert {name: found[f"stats/{name}"].tolist() for name in names} == {
        "n_firing": [2, 3],
        "n_firing_units": [1, 2],
        "sum": [5, 10],
        "sumsq": [13, 38],
        "max": [3, 5],
        "unit_ss": [25, 50],
        "unit_sn": [10, 20],
        "unit_cc": [4, 5],
        "unit_cn": [4, 6],
    }
    assert np.isnan(found["stats/effective_max"])
    assert found["top/rows"][:, :4].tolist() == [[1, 0, NO_INDEX, NO_INDEX], [4, 1, 0, NO_INDEX]]


def test_a_feature_that_never_fires_is_padding_and_zeros() -> None:
    nothing = (np.zeros(0, np.int64), np.zeros(0, np.float32))
    found = summarise(nothing, nothing, np.zeros(3, np.uint32), np.array([3]))
    assert {name: (array.shape, array.dtype.str[1:]) for name, array in found.items()} == SUMMARY_SHAPES
    assert (found["top/rows"] == NO_INDEX).all()
    for name in ("top/values", "stats/quantiles", "stats/effective_max"):
        assert np.isnan(found[name]).all()
    for name in ("stats/n_firing", "stats/sum", "stats/max", "stats/regions", "stats/histogram"):
        assert not found[name].any()


@pytest.mark.parametrize("n_rows", [30, 500, 20_000])
def test_distributions_are_those_of_numpy_to_the_last_bit(n_rows: int) -> None:
    rows, values, row_unit, unit_rows, n = made_up(n_rows, 0.6, 5, seed=n_rows)
    found = summarise((rows[:n], values[:n]), (rows, values), row_unit, unit_rows)
    maximum = np.float32(effective_max(values[:n]))
    assert np.array_equal(found["stats/effective_max"], maximum, equal_nan=True)
    for split, k in enumerate((n, len(rows))):
        exact = values[:k].astype(np.float64)
        assert found["stats/quantiles"][split].tolist() == np.quantile(exact, QUANTILES).astype("f4").tolist()
        counts = np.bincount(histogram_bin(values[:k]), minlength=HISTOGRAM_BINS)
        assert found["stats/histogram"][split].tolist() == counts.tolist()
        regions = count_regions(values[:k], float(maximum))
        assert found["stats/regions"][split].tolist() == regions.tolist()
        best = strongest(rows[:k], values[:k], TOP)
        assert found["top/rows"][split, : len(best)].tolist() == rows[best].tolist()


@pytest.mark.parametrize("n", [1, 2, 20, 777])
def test_quantiles_of_sorted_activations_are_those_of_numpy_in_64_bits(n: int) -> None:
    values = np.sort(np.exp(np.random.default_rng(n).standard_normal(n)).astype(np.float32))
    asked = np.linspace(0, 1, 201)
    assert quantiles_of_sorted(values, asked).tolist() == np.quantile(values.astype("f8"), asked).tolist()


def test_activations_on_the_edges_of_bins_and_regions_fall_as_defined() -> None:
    edges = 2.0 ** np.arange(-18, 18, 0.125)
    near = np.concatenate([np.nextafter(edges.astype("f4"), np.float32(x)) for x in (0, np.inf)])
    shares = np.array([0.01, 0.1, 0.25, 0.75, 0.9]) * 3.7
    values = np.concatenate([edges, near, shares, np.nextafter(shares.astype("f4"), np.float32(9))])
    values = np.concatenate([values, np.full(20_000, 3.7)]).astype(np.float32)
    rows = np.arange(len(values))
    found = summarise((rows, values), (rows, values), np.zeros(len(rows), np.uint8), np.array([len(rows)]))
    assert found["stats/histogram"][0].tolist() == np.bincount(histogram_bin(values), minlength=256).tolist()
    regions = count_regions(values, float(found["stats/effective_max"]))
    assert found["stats/regions"][0].tolist() == regions.tolist()


@pytest.mark.parametrize(("longest_unit", "block"), [(1, 3), (4, 1), (4, 7), (60, 8), (1000, 16)])
def test_sums_over_blocks_keep_units_whole(longest_unit: int, block: int) -> None:
    rows, values, row_unit, unit_rows, n = made_up(2000, 0.5, longest_unit, seed=block)
    explain = (rows[:n], values[:n])
    found = summarise(explain, (rows, values), row_unit, unit_rows, block=block)
    for split, k in enumerate((n, len(rows))):
        s = np.bincount(row_unit[rows[:k]], values[:k].astype(np.float64), len(unit_rows))
        c = np.bincount(row_unit[rows[:k]], minlength=len(unit_rows))
        assert found["stats/n_firing_units"][split] == (c > 0).sum()
        assert found["stats/unit_cc"][split] == (c * c).sum()
        assert found["stats/unit_cn"][split] == (c * unit_rows).sum()
        for name, expected in (
            ("sum", s.sum()),
            ("sumsq", (values[:k].astype(np.float64) ** 2).sum()),
            ("unit_ss", (s * s).sum()),
            ("unit_sn", (s * unit_rows).sum()),
        ):
            assert found[f"stats/{name}"][split] == pytest.approx(expected, rel=1e-12)
