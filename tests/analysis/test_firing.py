"""Regions, histogram bins, effective maximum and the order of the strongest, at their edges."""

import numpy as np

from saeinterp_mcp.analysis.firing import (
    count_regions,
    effective_max,
    histogram_bin,
    histogram_edges,
    region_of,
    strongest,
)


def test_a_region_holds_its_upper_edge() -> None:
    edges = np.array([1.0, 10.0, 25.0, 75.0, 90.0, 90.1, 300.0])
    assert region_of(edges, 100.0).tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert region_of(np.nextafter(edges[:5], np.inf), 100.0).tolist() == [1, 2, 3, 4, 5]


def test_regions_are_unknown_without_an_effective_maximum() -> None:
    assert count_regions(np.array([1.0, 2.0]), float("nan")).sum() == 0


def test_the_effective_maximum_interpolates_and_needs_twenty() -> None:
    values = np.arange(1.0, 21.0)
    # position 0.995 * 19 = 18.905 between 19 and 20
    assert abs(effective_max(values) - 19.905) < 1e-12
    assert np.isnan(effective_max(values[:19]))


def test_histogram_bins_are_eighths_of_octaves() -> None:
    values = np.array([2.0**-16, 1.0, 2.0**0.125, 2.0, 1e-9, 1e9])
    assert histogram_bin(values).tolist() == [0, 128, 129, 136, 0, 255]
    edges = histogram_edges()
    assert (edges[128], edges[136], len(edges)) == (1.0, 2.0, 257)


def test_ties_go_to_the_earlier_row_wherever_the_cut_is() -> None:
    rows, values = np.arange(10), np.array([1.0, 5.0, 5.0, 1.0, 5.0, 1.0, 1.0, 9.0, 5.0, 1.0])
    assert strongest(rows, values, 3).tolist() == [7, 1, 2]
    assert strongest(rows, values, 6).tolist() == [7, 1, 2, 4, 8, 0]
    assert strongest(rows, values, 50).tolist() == [7, 1, 2, 4, 8, 0, 3, 5, 6, 9]
