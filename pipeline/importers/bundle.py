"""Reads a bundle (docs/bundle.md): a folder of Parquet files and a `bundle.yaml`; refuses what does not fit.

Every refusal names the file, the row (from 0) where there is one, and the reason.
"""

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, field_validator, model_validator

from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.frozen import Frozen, FrozenFile
from saeinterp_mcp.store.manifest import Kind
from saeinterp_mcp.store.sample_table import NONE_VALUE, SampleTable, Units

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,199}")
U32_LIMIT = 2**32 - 1
SAMPLE_BATCH = 65_536


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
    """Provenance. `read_out: sigmoid` says that outputs are linear in the hook's vector, each with a sigmoid of its
    own; then effects keep the mean over outputs, which a softmax (the default) would cancel."""
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
        if not re.fullmatch(r"[\w.-]{1,200}", name):
            raise ValueError(f"{name[:200]!r} must consist of letters, digits, '_', '-' and '.'")
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
        if (read_out := (self.model or {}).get("read_out", "softmax")) not in ("softmax", "sigmoid"):
            raise ValueError(f"model.read_out is softmax or sigmoid, not {read_out!r}")
        return self

    @property
    def independent_outputs(self) -> bool:
        """Whether a shift of all outputs alike means something."""
        return (self.model or {}).get("read_out") == "sigmoid"


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


def read_samples(bundle: Path, config: BundleConfig) -> SampleTable:
    """Read `samples.parquet` in batches: tokens, units and groups.

    Raises:
        BadInput: a column is missing or of a wrong type, a token is null, a listed group is missing.
    """
    path = bundle / "samples.parquet"
    if not path.is_file():
        raise BadInput(f"{path} is missing")
    try:
        source = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} is not a Parquet file: {str(error).splitlines()[0]}") from error
    with source:
        schema = source.schema_arrow
        need_columns(path, schema.names, ("tokens",))
        kind = schema.field("tokens").type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise BadInput(f"{path}: column 'tokens' must hold lists of strings, found {kind}")
        if not (_is_text(kind.value_type) or pa.types.is_null(kind.value_type)):
            raise BadInput(
                f"{path}: column 'tokens' must hold lists of strings, found lists of {kind.value_type}"
            )
        if source.metadata.num_rows == 0:
            raise BadInput(f"{path} holds no sample")
        groups = _group_columns(path, schema, config)
        reader = _SampleReader(path, groups, "unit" in schema.names)
        columns = ["tokens", *(["unit"] if reader.with_units else []), *groups]
        try:
            for batch in source.iter_batches(SAMPLE_BATCH, columns=columns):
                reader.add(batch)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{path} is damaged after row {reader.n}: {str(error).splitlines()[0]}") from error
    return reader.table(config.kind)


def _group_columns(path: Path, schema: pa.Schema, config: BundleConfig) -> list[str]:
    listed = [group.name for group in config.groups]
    groups = []
    for field in schema:
        if field.name in ("tokens", "unit"):
            continue
        if _is_text(field.type):
            if not NAME.fullmatch(field.name):
                raise BadInput(
                    f"{path}: group column {field.name!r} must be named with letters, digits, '_' and '-'"
                )
            groups.append(field.name)
        elif field.name in listed:
            raise BadInput(
                f"{path}: group {field.name!r} must hold strings or categories, found {field.type}"
            )
    for name in listed:
        if name not in groups:
            raise BadInput(
                f"{path} has no column for the group {name!r} of bundle.yaml; {nearest(name, groups)}"
            )
    return groups


class _SampleReader:
    """Collects batches of samples in narrow columns."""

    def __init__(self, path: Path, groups: list[str], with_units: bool) -> None:
        self._path, self.with_units = path, with_units
        self.n = 0
        self._lengths: list[NDArray[np.int64]] = []
        self._tokens, self._units = _Coder(), list[pa.Array]()
        self._groups = {name: _Coder() for name in groups}

    def add(self, batch: pa.RecordBatch) -> None:
        """Check and keep a batch."""
        tokens = batch.column("tokens")
        if tokens.null_count:
            row = self.n + _first_null(tokens)
            raise BadInput(
                f"{self._path}, row {row}: tokens is null; a sample without tokens has an empty list"
            )
        lengths = pc.list_value_length(tokens).to_numpy(zero_copy_only=False).astype(np.int64)
        flat = tokens.flatten()
        if flat.null_count:
            row = int(np.searchsorted(np.cumsum(lengths), _first_null(flat), side="right"))
            raise BadInput(f"{self._path}, row {self.n + row}: a token is null")
        self._tokens.add(flat.cast(pa.string()) if pa.types.is_null(flat.type) else flat)
        self._lengths.append(lengths)
        if self.with_units:
            column = batch.column("unit")
            if column.null_count:
                raise BadInput(f"{self._path}, row {self.n + _first_null(column)}: unit is null")
            text = column if _is_text(column.type) else pa.array([str(u) for u in column.to_pylist()])
            self._units.append(text.cast(pa.large_string()))
        for name, coder in self._groups.items():
            coder.add(pc.fill_null(batch.column(name).cast(pa.large_string()), NONE_VALUE))
        self.n += batch.num_rows

    def table(self, kind: Kind) -> SampleTable:
        """Everything that was read."""
        units = None
        if self.with_units:
            coded = pa.chunked_array(self._units, pa.large_string()).combine_chunks().dictionary_encode()
            units = Units(
                coded.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False), coded.dictionary
            )
        return SampleTable(
            kind,
            np.concatenate(self._lengths),
            self._tokens.codes(),
            list(self._tokens.place),
            units,
            {name: coder.sorted() for name, coder in self._groups.items()},
        )


class _Coder:
    """Strings as numbers, in order of appearance."""

    def __init__(self) -> None:
        self.place: dict[str, int] = {}
        self._codes: list[NDArray[np.int32]] = []

    def add(self, text: pa.Array) -> None:
        """Code some strings."""
        if pa.types.is_dictionary(text.type):  # it may hold values that no sample has
            text = text.cast(pa.large_string())
        coded = text.dictionary_encode()
        names = [str(t) for t in coded.dictionary.to_pylist()]
        here = np.array([self.place.setdefault(name, len(self.place)) for name in names] or [0], np.int32)
        self._codes.append(here[coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)])

    def codes(self) -> NDArray[np.int32]:
        """All codes, one after the other."""
        return np.concatenate(self._codes) if self._codes else np.zeros(0, np.int32)

    def sorted(self) -> tuple[NDArray[np.int32], list[str]]:
        """Codes into the sorted values, and these."""
        values = sorted(self.place)
        moved = np.empty(max(1, len(values)), np.int32)
        moved[[self.place[v] for v in values]] = np.arange(len(values))
        return moved[self.codes()], values


def _first_null(column: pa.Array) -> int:
    return int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value)
    )


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
