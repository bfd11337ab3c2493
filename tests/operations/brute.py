"""Sums by unit, by looping over units: the second way to compute what the operations answer."""

from typing import Any

import numpy as np

from saeinterp_mcp.analysis.intervals import Arm, Cross
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import Split


def dense(store: Store, feature: int, split: Split = "all") -> np.ndarray[Any, np.dtype[np.float64]]:
    """Activation of every row, silent ones 0."""
    column = np.zeros(store.n_rows("all"))
    rows, values = store.activations(feature)
    column[rows] = values
    return column[: store.n_rows(split)]


def arms(value: Any, unit: Any, first: Any, second: Any, keep: Any) -> tuple[Arm, Arm, Cross]:
    """Sums of two sets of rows (masks), over the units of the kept rows."""
    sums: dict[str, list[float]] = {}
    for u in np.unique(unit):
        here = keep & (unit == u)
        for name, mask in (("a", first), ("b", second)):
            inside = here & mask
            sums.setdefault(f"n{name}", []).append(float(inside.sum()))
            sums.setdefault(f"s{name}", []).append(float(value[inside].sum()))
            sums.setdefault(f"f{name}", []).append(float((value[inside] > 0).any()))
    v = {name: np.array(column) for name, column in sums.items()}

    def arm(name: str) -> Arm:
        n, s = v[f"n{name}"], v[f"s{name}"]
        parts = (
            n.sum(),
            (n > 0).sum(),
            v[f"f{name}"].sum(),
            s.sum(),
            (s * s).sum(),
            (s * n).sum(),
            (n * n).sum(),
        )
        return Arm(*(np.array([float(p)]) for p in parts))

    crossed = (
        (v["sa"] * v["sb"]).sum(),
        (v["sa"] * v["nb"]).sum(),
        (v["na"] * v["sb"]).sum(),
        (v["na"] * v["nb"]).sum(),
    )
    return arm("a"), arm("b"), Cross(*(np.array([float(c)]) for c in crossed))
