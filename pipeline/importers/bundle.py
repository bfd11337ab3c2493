"""Reads a bundle (docs/bundle.md): a folder of Parquet files and a `bundle.yaml`; refuses what does not fit.

Every refusal names the file, the row (from 0) where there is one, and the reason.
"""

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, field_validator, model_validator

from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.frozen import Frozen, FrozenFile

NONE_VALUE = "(none)"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
U32_LIMIT = 2**32 - 1


class FamilyConfig(Frozen):
    """A family of tokens."""

    name: str
    encoding: Literal["exclusive", "cumulative"] = "exclusive"
    levels: dict[str, int] = Field(min_length=1)
    """Token string to level; several tokens may share one. Levels are positive."""

    @field_validator("levels")
    @classmethod
    def _positive(cls, levels: dict[str, int]) -> dict[str, int]:
        for token, level in levels.items():
            if level < 1:
                raise ValueError(f"token {token!r} has level {level}; levels are positive, 0 means none")
        return levels


class GroupConfig(Frozen):
    """A group that `bundle.yaml` lists, because it is primary or has attributes."""

    name: str
    primary: bool = False
    attributes: str | None = None
    """A Parquet file, one row a value: the column named as the group, then the attributes."""


class BundleConfig(FrozenFile):
    """The content of `bundle.yaml`."""

    name: str
    kind: Literal["set", "sequence"]
    n_features: int = Field(ge=1, lt=2**32 - 1)
    families: tuple[FamilyConfig, ...] = ()
    groups: tuple[GroupConfig, ...] = ()
    excluded_positions: tuple[NonNegativeInt, ...] = ()
    split_seed: int = 0
    model: dict[str, Any] | None = None
    sae: dict[str, Any] | None = None
    dataset: dict[str, Any] | None = None
    checks: list[dict[str, Any]] = []
    decoder: str | None = None
    """A .npy file, [n_features, d_model]."""
    unembedding: str | None = None
    """A .npy file, [d_model, n_outputs], the final norm already folded in."""
    output_tokens: tuple[str, ...] | str | None = None
    """n_outputs strings, or a JSON file that holds them."""
    search_floor: dict[Literal["firing_rate", "max"], float] = {}
    """Features under these are flagged and left out of default searches."""
    coverage: Literal["full", "sampled"] = "full"
    """`sampled` for data that hold only chosen examples; questions about the distribution are then refused."""

    @field_validator("name")
    @classmethod
    def _identifier(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"{name!r} must consist of letters, digits, '_', '-' and '.'")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> "BundleConfig":
        owner: dict[str, str] = {}
        names: set[str] = set()
        for family in self.families:
            if not NAME.fullmatch(family.name):
                raise ValueError(f"family name {family.name!r} must be letters, digits, '_' and '-'")
            if family.name in names:
                raise ValueError(f"family {family.name!r} is listed twice")
            names.add(family.name)
            for token in family.levels:
                if token in owner:
                    raise ValueError(
                        f"token {token!r} is in families {owner[token]!r} and {family.name!r}; one at most"
                    )
                owner[token] = family.name
        if self.kind == "set" and self.excluded_positions:
            raise ValueError("excluded_positions has no meaning in a set store")
        listed = [group.name for group in self.groups]
        for name in listed:
            if listed.count(name) > 1:
                raise ValueError(f"group {name!r} is listed twice")
        if sum(group.primary for group in self.groups) > 1:
            raise ValueError("more than one group is primary")
        if (self.unembedding is None) != (self.output_tokens is None):
            raise ValueError("unembedding and output_tokens must be given together")
        if self.unembedding is not None and self.decoder is None:
            raise ValueError("unembedding needs decoder")
        return self


class Samples(NamedTuple):
    """The samples of a bundle, in its own order."""

    lengths: NDArray[np.int64]
    """(N,) tokens of each sample."""
    token_index: NDArray[np.int64]
    """(T,) index into `token_names`."""
    token_names: list[str]
    units: list[str] | None
    groups: dict[str, tuple[NDArray[np.int64], list[str]]]
    """Group name to (N,) codes and the values they index, sorted."""


def read_config(bundle: Path) -> BundleConfig:
    """Read `bundle.yaml`.

    Raises:
        BadInput: missing or unfit.
    """
    if not bundle.is_dir():
        raise BadInput(
            f"{bundle} is not a folder; a bundle is a folder holding bundle.yaml and samples.parquet"
        )
    return BundleConfig.from_yaml(bundle / "bundle.yaml")


def read_table(path: Path, columns: tuple[str, ...] = ()) -> pa.Table:
    """Read a whole Parquet file that must have some columns.

    Raises:
        BadInput: missing, not Parquet, or without a column.
    """
    if not path.is_file():
        raise BadInput(f"{path} is missing")
    try:
        with pq.ParquetFile(path) as source:
            need_columns(path, source.schema_arrow.names, columns)
            return source.read()
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} is not a Parquet file: {str(error).splitlines()[0]}") from error


def need_columns(path: Path, present: list[str], needed: tuple[str, ...]) -> None:
    """Refuse a table without a needed column, or with one twice."""
    for column in needed:
        if column not in present:
            raise BadInput(f"{path} has no column {column!r}; {nearest(column, present)}")
    twice = sorted({column for column in present if present.count(column) > 1})
    if twice:
        raise BadInput(f"{path} has more than one column {twice[0]!r}")


def read_samples(bundle: Path, config: BundleConfig) -> Samples:
    """Read `samples.parquet`: tokens, units and groups.

    Raises:
        BadInput: a column is missing or of a wrong type, a token is null, a listed group is missing.
    """
    path = bundle / "samples.parquet"
    table = read_table(path, ("tokens",))
    if table.num_rows == 0:
        raise BadInput(f"{path} holds no sample")
    tokens = table.column("tokens").combine_chunks()
    if isinstance(tokens, pa.ChunkedArray):
        tokens = pa.concat_arrays(tokens.chunks)
    if not (pa.types.is_list(tokens.type) or pa.types.is_large_list(tokens.type)):
        raise BadInput(f"{path}: column 'tokens' must hold lists of strings, found {tokens.type}")
    if tokens.null_count:
        row = int(np.flatnonzero(tokens.is_null().to_numpy(zero_copy_only=False))[0])
        raise BadInput(f"{path}, row {row}: tokens is null; a sample without tokens has an empty list")
    lengths = pc.list_value_length(tokens).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = tokens.flatten()
    if pa.types.is_null(flat.type):
        flat = flat.cast(pa.string())
    if not _is_text(flat.type):
        raise BadInput(f"{path}: column 'tokens' must hold lists of strings, found lists of {flat.type}")
    if flat.null_count:
        at = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0])
        raise BadInput(
            f"{path}, row {int(np.searchsorted(np.cumsum(lengths), at, side='right'))}: a token is null"
        )
    coded = flat if pa.types.is_dictionary(flat.type) else flat.dictionary_encode()
    token_index = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    token_names = [str(t) for t in coded.dictionary.to_pylist()]
    units = None
    if "unit" in table.column_names:
        column = table.column("unit")
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy())[0])
            raise BadInput(f"{path}, row {row}: unit is null")
        units = [str(u) for u in column.to_pylist()]
    groups = {}
    for name in table.column_names:
        if name in ("tokens", "unit"):
            continue
        column = table.column(name)
        if _is_text(column.type):
            groups[name] = _group_codes(path, name, column)
        elif name in (listed.name for listed in config.groups):
            raise BadInput(f"{path}: group {name!r} must hold strings or categories, found {column.type}")
    for listed in config.groups:
        if listed.name not in groups:
            raise BadInput(
                f"{path} has no column for the group {listed.name!r} of bundle.yaml; {nearest(listed.name, groups)}"
            )
    return Samples(lengths, token_index, token_names, units, groups)


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)
    )


def _group_codes(path: Path, name: str, column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    if not NAME.fullmatch(name):
        raise BadInput(f"{path}: group column {name!r} must be named with letters, digits, '_' and '-'")
    filled = pc.fill_null(column.cast(pa.large_string()), NONE_VALUE).combine_chunks()
    coded = filled.dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    values = [str(v) for v in coded.dictionary.to_pylist()]
    order = sorted(range(len(values)), key=values.__getitem__)
    place = np.empty(len(values), np.int64)
    place[order] = np.arange(len(values))
    codes = place[coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)]
    return codes, [values[i] for i in order]


def read_attributes(bundle: Path, group: GroupConfig, values: list[str]) -> dict[str, tuple[str, ...]]:
    """Attributes of a group's values, `(none)` where the table has no row.

    Raises:
        BadInput: the table is missing, lacks the group's column or names a value twice.
    """
    if group.attributes is None:
        return {}
    path = inside(bundle, group.attributes)
    table = read_table(path, (group.name,))
    keys = [NONE_VALUE if k is None else str(k) for k in table.column(group.name).to_pylist()]
    if len(set(keys)) < len(keys):
        twice = next(k for i, k in enumerate(keys) if k in keys[:i])
        raise BadInput(
            f"{path}, row {len(keys) - 1 - keys[::-1].index(twice)}: {group.name} {twice!r} is there twice"
        )
    attributes = {}
    for name in table.column_names:
        if name == group.name:
            continue
        if not NAME.fullmatch(name):
            raise BadInput(f"{path}: attribute {name!r} must be named with letters, digits, '_' and '-'")
        column = [NONE_VALUE if v is None else str(v) for v in table.column(name).to_pylist()]
        by_value = dict(zip(keys, column, strict=True))
        attributes[name] = tuple(by_value.get(v, NONE_VALUE) for v in values)
    return attributes


def inside(bundle: Path, name: str) -> Path:
    """A file that `bundle.yaml` names, which must lie in the bundle.

    Raises:
        BadInput: it points outside, or is missing.
    """
    path = (bundle / name).resolve()
    if not path.is_relative_to(bundle.resolve()):
        raise BadInput(f"{bundle / 'bundle.yaml'}: {name!r} points outside the bundle")
    if not path.is_file():
        raise BadInput(f"{bundle / name} is missing, but bundle.yaml names it")
    return path


def read_matrix(bundle: Path, name: str, shape: tuple[int | None, int | None]) -> NDArray[np.float32]:
    """A two-dimensional .npy file of finite numbers (no pickle).

    Raises:
        BadInput: not such a file, or of another shape.
    """
    path = inside(bundle, name)
    try:
        with path.open("rb") as file:
            matrix = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, OSError) as error:
        raise BadInput(f"{path} is not a .npy file without objects: {error}") from error
    wanted = " x ".join("any" if n is None else str(n) for n in shape)
    if matrix.ndim != 2 or any(n not in (None, m) for n, m in zip(shape, matrix.shape, strict=True)):
        raise BadInput(f"{path} has shape {' x '.join(map(str, matrix.shape))}, expected {wanted}")
    if matrix.dtype.kind != "f":
        raise BadInput(f"{path} must hold floating point numbers, found {matrix.dtype}")
    with np.errstate(over="ignore"):
        narrow = matrix.astype(np.float32)
    if not np.isfinite(narrow).all():
        row, column = np.argwhere(~np.isfinite(narrow))[0]
        raise BadInput(
            f"{path}, row {row}: column {column} holds {matrix[row, column]}, not finite in float32"
        )
    return np.asarray(narrow)
