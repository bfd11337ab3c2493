"""How do two families go together?"""

from functools import lru_cache
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from saeinterp_mcp.analysis.effects import enough
from saeinterp_mcp.analysis.intervals import Arm, contrast, mean_interval, rate_interval
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.operations.base import (
    Feature,
    Given,
    MinN,
    ScopeArgument,
    Seed,
    SplitArgument,
    TableResult,
    Where,
    Window,
    digits,
    percent,
    sealed,
    table_rows,
)
from saeinterp_mcp.operations.slicing import Scoping, Slice, make_slice
from saeinterp_mcp.store.base import Floats, Ints, Store
from saeinterp_mcp.store.manifest import Split

MAX_CELLS = 400
ROWS_WITH_TWO_LINES = 12
COLUMNS = [
    "x",
    "y",
    "n",
    "n_units",
    "n_firing",
    "firing_rate",
    "mean",
    "ci_low",
    "ci_high",
    "interaction",
    "interaction_low",
    "interaction_high",
    "rate_interaction",
    "rate_interaction_low",
    "rate_interaction_high",
]


class Peak(BaseModel):
    """The cell of largest mean among those with enough rows."""

    model_config = ConfigDict(extra="forbid")
    x: int
    y: int
    n: int
    mean: float


class FamilyHeatmap(TableResult):
    """Every pair of levels, level 0 (none) included."""

    family_x: str
    family_y: str
    given: str | None
    peak: Peak | None


def family_heatmap(
    store: Store,
    feature: Feature,
    family_x: Annotated[str, Field(description="Family of the columns")],
    family_y: Annotated[str, Field(description="Family of the rows")],
    given: Given = None,
    where: Where = None,
    scope: ScopeArgument = "at",
    window: Window = 16,
    min_n: MinN = 20,
    image: Annotated[bool, Field(description="Also a PNG")] = False,
    split: SplitArgument = "explain",
    seed: Seed = 0,
) -> FamilyHeatmap:
    """Mean activation and firing rate for every pair of levels of two families.

    interaction is m(x,y) - m(x,0) - m(0,y) + m(0,0). A cell never observed has n 0 and nulls.
    """
    store.need_full_coverage("family_heatmap")
    fx, fy = store.family(family_x), store.family(family_y)
    if family_x == family_y:
        raise BadInput(f"family_x and family_y are both {family_x!r}; a heatmap needs two families")
    nx, ny = len(fx.levels) + 1, len(fy.levels) + 1
    if nx * ny > MAX_CELLS:
        raise BadInput(
            f"{family_x} has {nx - 1} levels and {family_y} {ny - 1}: {nx * ny} cells are more than {MAX_CELLS}; "
            f"choose families with fewer levels, or sweep one with given on the other"
        )
    part = make_slice(store, feature, split, where, Scoping(scope, window), given)
    cells = _Cells(part, family_x, family_y, nx, ny, min_n)
    x = np.array([0, *fx.levels])[np.arange(nx * ny) // ny]
    y = np.array([0, *fy.levels])[np.arange(nx * ny) % ny]
    observed = int((cells.n > 0).sum())
    warnings = list(part.warnings)
    of_tokens = store.is_sequence and not (fx.of_positions or fy.of_positions)
    if scope == "at" and of_tokens and not (cells.n.reshape(nx, ny)[1:, 1:] > 0).any():
        warnings.append(
            "at scope 'at' a position has one token, so levels of two token families never meet; "
            "use scope before or sample"
        )
    best = int(np.nanargmax(np.where(cells.shown, cells.mean, np.nan))) if cells.shown.any() else None
    result = FamilyHeatmap(
        operation="family_heatmap",
        store=store.name,
        basis="observed",
        summary=(
            f"{observed} of {nx * ny} cells observed, {int(cells.shown.sum())} with enough rows. "
            + (
                f"Largest mean {digits(cells.mean[best])} [{digits(cells.low[best])}, {digits(cells.high[best])}] at "
                f"{family_x}={x[best]}, {family_y}={y[best]} "
                f"(n {cells.n[best]}, firing rate {percent(cells.rate[best])})."
                if best is not None
                else "No cell has enough rows for an estimate."
            )
        ),
        warnings=warnings,
        seed=seed,
        split=split,
        where=where,
        feature=feature,
        family_x=family_x,
        family_y=family_y,
        given=given,
        peak=None
        if best is None
        else Peak(x=int(x[best]), y=int(y[best]), n=int(cells.n[best]), mean=float(cells.mean[best])),
        columns=COLUMNS,
        rows=table_rows(
            x,
            y,
            cells.n,
            cells.n_units,
            cells.n_firing,
            cells.rate,
            cells.mean,
            cells.low,
            cells.high,
            cells.interaction,
            cells.interaction_low,
            cells.interaction_high,
            cells.rate_interaction,
            cells.rate_interaction_low,
            cells.rate_interaction_high,
        ),
    )
    arguments: dict[str, Any] = {
        "feature": feature,
        "family_x": family_x,
        "family_y": family_y,
        "given": given,
        "where": where,
        "scope": scope,
        "window": window,
        "min_n": min_n,
        "split": split,
        "seed": seed,
    }
    return sealed(result, store, arguments)


class _Population(NamedTuple):
    """Rows of a slice by unit and cell x * ny + y: the same for every feature."""

    rows_of: Any
    """(units, cells) sparse: rows of the unit in the cell."""
    n: Ints
    """(cells,) rows."""
    n_units: Ints
    """(cells,) units with such a row."""
    products: Floats
    """(cells, cells) sum over units of the products of their rows."""


def _cells_of(part: Slice, family_x: str, family_y: str, rows: Ints) -> Ints:
    (x, _), (y, _) = (part.labels(f"family.{family}").labels_of(rows) for family in (family_x, family_y))
    return np.asarray(x.astype(np.int64) * (len(part.store.family(family_y).levels) + 1) + y)


def _count_cells(part: Slice, family_x: str, family_y: str, k: int) -> _Population:
    from scipy import sparse  # half a second that a server asked its name must not spend

    rows = np.arange(part.store.n_rows(part.split)) if part.mask is None else np.flatnonzero(part.mask)
    cell = _cells_of(part, family_x, family_y, rows)
    unit = part.store.row_unit[rows].astype(np.int64)
    shape = (part.store.n_units(part.split), k)
    rows_of = sparse.coo_array((np.ones(len(rows)), (unit, cell)), shape).tocsr()
    return _Population(
        rows_of=rows_of,
        n=np.bincount(cell, minlength=k),
        n_units=np.bincount(rows_of.indices, minlength=k),
        products=np.asarray((rows_of.T @ rows_of).todense()),
    )


@lru_cache(maxsize=32)
def _whole_population(
    store: Store, family_x: str, family_y: str, split: Split, scoping: Scoping, k: int
) -> _Population:
    return _count_cells(Slice(store, 0, split, scoping, None), family_x, family_y, k)


class _Cells:
    """Estimates of all cells x * ny + y, from sparse matrices of units by cells."""

    def __init__(self, part: Slice, family_x: str, family_y: str, nx: int, ny: int, min_n: int) -> None:
        k = nx * ny
        if part.mask is None:
            everyone = _whole_population(part.store, family_x, family_y, part.split, part.scoping, k)
        else:
            everyone = _count_cells(part, family_x, family_y, k)
        firing, values = part.firing
        cell = _cells_of(part, family_x, family_y, firing)
        self.n, self.n_units = everyone.n, everyone.n_units
        self.n_firing = np.bincount(cell, minlength=k)
        self.shown = enough(self.n, self.n_units, min_n)
        strength, fires = (_sums_of(part, everyone, cell, one) for one in (values, np.ones(len(values))))
        with np.errstate(invalid="ignore", divide="ignore"):
            low, high = mean_interval(strength.arm, np.full(k, part.largest))
            rate_low, rate_high = rate_interval(fires.arm)
        self.mean, self.rate = (np.where(self.shown, sums.mean, np.nan) for sums in (strength, fires))
        self.low, self.high = (np.where(self.shown, limit, np.nan) for limit in (low, high))
        inner = np.array([i * ny + j for i in range(1, nx) for j in range(1, ny)], np.int64)
        four = np.stack([inner, inner // ny * ny, inner % ny, np.zeros_like(inner)], 1)
        four = four[self.shown[four].all(1)]
        self.interaction, self.interaction_low, self.interaction_high = _interaction(
            strength, four, self.low, self.high
        )
        found = _interaction(fires, four, rate_low, rate_high)
        self.rate_interaction, self.rate_interaction_low, self.rate_interaction_high = found


class _CellSums(NamedTuple):
    """Each cell as an arm, its mean, and the clustered covariance of all means: of one quantity."""

    arm: Arm
    mean: Floats
    covariance: Floats


def _sums_of(part: Slice, everyone: _Population, cell: Ints, values: Floats) -> _CellSums:
    """Sums over units of the activation, or of 1 where it fires.

    The influence of a unit on a cell's mean is S - m n; their Gram matrix is the clustered covariance.
    """
    from scipy import sparse  # half a second that a server asked its name must not spend

    units, k = part.firing_units, len(everyone.n)
    sums = sparse.coo_array((values, (units.index, cell)), (len(units.units), k)).tocsr()
    squares = np.asarray((sums.T @ sums).todense())
    beside = np.asarray((sums.T @ everyone.rows_of[units.units]).todense())
    arm = Arm(
        n=everyone.n.astype(np.float64),
        n_units=everyone.n_units.astype(np.float64),
        n_firing_units=np.bincount(sums.indices, minlength=k).astype(np.float64),
        s=np.bincount(cell, values, k).astype(np.float64),
        ss=squares.diagonal(),
        sn=beside.diagonal(),
        nn=everyone.products.diagonal(),
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = arm.s / arm.n
        scale = np.nan_to_num(1 / arm.n, posinf=0.0)
        factor = np.sqrt(np.nan_to_num(arm.n_units / (arm.n_units - 1), posinf=0.0, neginf=0.0))
    m = np.nan_to_num(mean)
    gram = squares - beside * m - (beside * m).T + everyone.products * np.outer(m, m)
    return _CellSums(arm, mean, gram * np.outer(scale * factor, scale * factor))


def _interaction(sums: _CellSums, four: Ints, low: Floats, high: Floats) -> tuple[Floats, Floats, Floats]:
    """m(x,y) - m(x,0) - m(0,y) + m(0,0) with its interval, (cells,) each; NaN where a corner has too few rows."""
    weights = np.array([1.0, -1.0, -1.0, 1.0])
    found = np.full((3, len(sums.mean)), np.nan)
    if len(four):
        found[0, four[:, 0]] = sums.mean[four] @ weights
        block = sums.covariance[four[:, :, None], four[:, None, :]]
        with np.errstate(invalid="ignore", divide="ignore"):
            limits = contrast(sums.mean[four], low[four], high[four], block, weights)
        found[1, four[:, 0]], found[2, four[:, 0]] = limits
    return found[0], found[1], found[2]


def draw_heatmap(result: FamilyHeatmap) -> bytes:
    """A PNG of the means: blank where never observed, hatched where too few rows, the number of rows in each cell."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    at = {name: result.columns.index(name) for name in ("x", "y", "n", "mean")}
    rows: list[list[Any]] = list(result.rows)
    xs = sorted({int(row[at["x"]]) for row in rows})
    ys = sorted({int(row[at["y"]]) for row in rows})
    mean, n = np.full((len(ys), len(xs)), np.nan), np.zeros((len(ys), len(xs)), np.int64)
    for row in rows:
        i, j = ys.index(int(row[at["y"]])), xs.index(int(row[at["x"]]))
        n[i, j] = row[at["n"]]
        mean[i, j] = np.nan if row[at["mean"]] is None else row[at["mean"]]
    figure = Figure(
        figsize=(min(8.0, 2.6 + 0.62 * len(xs)), min(6.0, 1.9 + 0.42 * len(ys))),
        dpi=100,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    picture = axes.imshow(np.ma.masked_invalid(mean), origin="lower", aspect="auto", cmap="viridis", vmin=0)
    axes.set_xticks(range(len(xs)), [str(v) if v else "none" for v in xs])
    axes.set_yticks(range(len(ys)), [str(v) if v else "none" for v in ys])
    axes.set_xlabel(result.family_x.replace("$", r"\$"))
    axes.set_ylabel(result.family_y.replace("$", r"\$"))
    axes.set_title(
        f"feature {result.feature}: mean activation, silent rows included\n"
        "(with the rows of the cell; few: under min_n)",
        fontsize=9,
    )
    top = np.nanmax(mean) if np.isfinite(mean).any() else 1.0
    crowded = len(ys) > ROWS_WITH_TWO_LINES
    for i in range(len(ys)):
        for j in range(len(xs)):
            if n[i, j] == 0:
                continue
            known = np.isfinite(mean[i, j])
            dark = known and mean[i, j] < 0.6 * top
            value = f"{mean[i, j]:.{2 if crowded else 3}g}" if known else "few"
            text = f"{value} ({n[i, j]})" if crowded else f"{value}\n{n[i, j]}"
            axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    figure.colorbar(picture, ax=axes)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
