"""What every operation shares: the common fields of a result, tables, cursors, rounding and evidence."""

import base64
import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import fingerprint, rounded
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import Split

Basis = Literal["observed", "weights", "intervened", "judged"]
Cell = str | int | float | bool | list[str] | None
MAX_CHARACTERS = 20_000

T = TypeVar("T")
R = TypeVar("R", bound="Result")

Feature = Annotated[int, Field(ge=0, description="Feature index")]
SplitArgument = Annotated[Split, Field(description="explain (default) or all stored data")]
WHERE_HELP = "Rule on rows, e.g. module=json and not token:def"
Where = Annotated[str | None, Field(description=WHERE_HELP)]
Given = Annotated[str | None, Field(description="Condition held, e.g. family:keyword>=1")]
Seed = Annotated[int, Field(ge=0, description="Seed of what is drawn")]
ScopeArgument = Annotated[
    Literal["at", "before", "sample"],
    Field(description="Sequences: tokens at the position, before it, or anywhere"),
]
Window = Annotated[int, Field(ge=1, le=512, description="Positions that before looks back")]
MinN = Annotated[int, Field(ge=1, description="Rows an estimate needs")]
Limit = Annotated[int, Field(ge=1, le=200, description="Rows shown")]
Cursor = Annotated[str | None, Field(description="next_cursor of the previous answer")]


class Table(BaseModel):
    """A named table: `rows` are lists in the order of `columns`."""

    model_config = ConfigDict(extra="forbid")
    columns: list[str]
    rows: list[list[Cell]]


class Result(BaseModel):
    """Fields of every answer."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    operation: str
    store: str | None
    basis: Basis
    """observed: statistics of stored samples, which do not show causes; weights: computed from weights."""
    summary: str
    warnings: list[str] = []
    evidence: str = ""
    """Fingerprint of store, call and answer, for labels and notes to cite."""
    seed: int | None = None
    split: str | None = None
    where: str | None = None
    next_cursor: str | None = None
    more: int | None = None
    """Rows left out of the main table."""
    _bare: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def bare(self) -> dict[str, Any]:
        """What the evidence is the fingerprint of: the answer before labels and counts of tests were filled in."""
        return self._bare


class FeatureResult(Result):
    """Fields of every answer about one feature."""

    feature: int


class TableResult(FeatureResult):
    """An answer whose main table stands at its top level."""

    columns: list[str]
    rows: list[list[Cell]]


def number(value: Any) -> float | None:
    """A float for a result: None for NaN and infinity."""
    value = float(value)
    return value if np.isfinite(value) else None


def table_rows(*columns: Iterable[Any]) -> list[list[Cell]]:
    """Columns to rows of plain Python values, NaN to None."""
    return [[_plain(v) for v in row] for row in zip(*columns, strict=True)]


def _plain(value: Any) -> Cell:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value  # type: ignore[no-any-return]


def sealed(result: R, store: Store | None, arguments: dict[str, Any]) -> R:
    """The result with its numbers rounded to 6 significant digits and its evidence filled in."""
    body = rounded(result.model_dump(mode="json", exclude={"evidence"}))
    called = {k: v for k, v in arguments.items() if v is not None}
    digest = fingerprint(
        {
            "store": store.fingerprint if store else None,
            "operation": result.operation,
            "arguments": rounded(called),
            "result": body,
        }
    )
    answer = type(result).model_validate({**body, "evidence": f"ev-{digest}"})
    answer._bare = {name: part for name, part in body.items() if name != "evidence"}
    return answer


def page(
    items: Sequence[T], limit: int, cursor: str | None, store: Store, query: Any
) -> tuple[Sequence[T], str | None, int | None]:
    """One page of a list: (items, next cursor, how many come after).

    Raises:
        BadInput: the cursor is not of this store and query.
    """
    key = fingerprint([store.fingerprint, query])
    start = 0
    if cursor is not None:
        try:
            found = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii")))
            ours, start = found["of"] == key, int(found["at"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput("the cursor is not one of ours; leave it out to start again") from error
        if not ours or not 0 <= start <= len(items):
            raise BadInput("the cursor belongs to another store or call; leave it out to start again")
    shown = items[start : start + limit]
    left = len(items) - start - len(shown)
    if not left:
        return shown, None, None
    following = json.dumps({"of": key, "at": start + len(shown)}, separators=(",", ":"))
    return shown, base64.urlsafe_b64encode(following.encode()).decode(), left


def digits(value: float | None, n: int = 3) -> str:
    """A number in a sentence, to n significant digits."""
    return "unknown" if value is None or not np.isfinite(value) else f"{value:.{n}g}"


def percent(value: float | None) -> str:
    """A share in a sentence."""
    return "unknown" if value is None or not np.isfinite(value) else f"{100 * value:.3g} %"
