"""The activations and position families of a bundle (bundle.py reads the rest), checked entry by entry."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.importers.bundle import NAME, BundleConfig, need_columns, read_table
from saeinterp_mcp.errors import BadInput

BATCH_ROWS = 1 << 19
PART_ROWS = 1 << 21


def activation_files(bundle: Path) -> list[Path]:
    """The file `activations.parquet`, or the sorted files of the folder `activations/`.

    Raises:
        BadInput: neither or both.
    """
    single, folder = bundle / "activations.parquet", bundle / "activations"
    if single.exists() and folder.exists():
        raise BadInput(f"{bundle} has both activations.parquet and activations/; keep one")
    if single.exists():
        return [single]
    files = sorted(folder.glob("*.parquet")) if folder.is_dir() else []
    if not files:
        raise BadInput(f"{bundle} has neither activations.parquet nor activations/*.parquet")
    return files


class ActivationBatch(NamedTuple):
    """Checked activations of some rows of one file."""

    sample: NDArray[np.int64]
    position: NDArray[np.int64]
    feature: NDArray[np.int64]
    value: NDArray[np.float32]


ACTIVATION_COLUMNS = ("feature", "sample", "position", "value")


class FilePart(NamedTuple):
    """Consecutive row groups of one file."""

    path: Path
    row_groups: tuple[int, ...]
    first: int
    """The row of the file where they begin."""
    n: int
    """Rows."""


def activation_parts(files: list[Path], size: int = PART_ROWS) -> list[FilePart]:
    """The files in parts of about `size` rows, as far as their row groups allow.

    Raises:
        BadInput: not Parquet, or a column is missing or of a wrong type.
    """
    parts = []
    for path in files:
        try:
            with pq.ParquetFile(path) as source:
                schema = source.schema_arrow
                rows = [source.metadata.row_group(i).num_rows for i in range(source.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{path} is not a Parquet file: {str(error).splitlines()[0]}") from error
        need_columns(path, schema.names, ACTIVATION_COLUMNS)
        for column in ACTIVATION_COLUMNS:
            kind = schema.field(column).type
            fits = (
                pa.types.is_floating(kind) or pa.types.is_integer(kind)
                if column == "value"
                else pa.types.is_integer(kind)
            )
            if not fits:
                wanted = "numbers" if column == "value" else "integers"
                raise BadInput(f"{path}: column {column!r} must hold {wanted}, found {kind}")
        first = begin = n = 0
        for i, here in enumerate(rows):
            n += here
            if n >= size or i == len(rows) - 1:
                parts.append(FilePart(path, tuple(range(begin, i + 1)), first, n))
                first, begin, n = first + n, i + 1, 0
    return parts


def count_features(n_features: int, part: FilePart) -> NDArray[np.int64]:
    """(n_features,) how often each is named, unchecked: to divide the work by."""
    total = np.zeros(n_features, np.int64)
    with pq.ParquetFile(part.path) as source:
        for batch in source.iter_batches(BATCH_ROWS, row_groups=list(part.row_groups), columns=["feature"]):
            column = batch.column("feature")
            if not column.null_count:
                feature = column.to_numpy(zero_copy_only=False)
                total += np.bincount(
                    np.clip(feature, 0, n_features - 1).astype(np.int64), minlength=n_features
                )
    return total


def read_part(
    part: FilePart,
    config: BundleConfig,
    lengths: NDArray[np.int64],
    negatives: str | None,
    dropped: dict[str, int],
) -> Iterator[ActivationBatch]:
    """The activations of a part in batches, checked.

    Args:
        part: of one of the activation files.
        config: of the bundle.
        lengths: (N,) tokens of each sample.
        negatives: None refuses values that are not positive and finite; `drop` or `abs` handles negative ones.
        dropped: counts what was left out, by reason.

    Raises:
        BadInput: file, row and reason of the first entry that does not fit.
    """
    first = part.first
    try:
        with pq.ParquetFile(part.path) as source:
            for batch in source.iter_batches(
                BATCH_ROWS, row_groups=list(part.row_groups), columns=list(ACTIVATION_COLUMNS)
            ):
                yield _check_batch(part.path, first, batch, config, lengths, negatives, dropped)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{part.path} is damaged after row {first}: {str(error).splitlines()[0]}") from error


def _check_batch(
    path: Path,
    first: int,
    batch: pa.RecordBatch,
    config: BundleConfig,
    lengths: NDArray[np.int64],
    negatives: str | None,
    dropped: dict[str, int],
) -> ActivationBatch:
    def refuse(bad: NDArray[np.bool_], column: str, reason: str) -> None:
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise BadInput(
                f"{path}, row {first + at}: {column} {batch.column(column)[at].as_py()!r} {reason}"
            )

    for column in ACTIVATION_COLUMNS:
        if batch.column(column).null_count:
            refuse(batch.column(column).is_null().to_numpy(zero_copy_only=False), column, "is null")
    sample, position, feature = (
        batch.column(c).to_numpy(zero_copy_only=False) for c in ("sample", "position", "feature")
    )
    with np.errstate(over="ignore"):
        value = batch.column("value").to_numpy(zero_copy_only=False).astype(np.float32)
    refuse(
        (feature < 0) | (feature >= config.n_features), "feature", f"is not in 0 to {config.n_features - 1}"
    )
    refuse(
        (sample < 0) | (sample >= len(lengths)),
        "sample",
        f"is not a row of samples.parquet (0 to {len(lengths) - 1})",
    )
    if config.kind == "set":
        refuse(position != 0, "position", "must be 0 in a set store")
    else:
        refuse((position < 0) | (position >= lengths[sample]), "position", "is outside the sample's tokens")
    refuse(~np.isfinite(value), "value", "is not finite in float32")
    if negatives is None:
        refuse(value <= 0, "value", "is not positive in float32 (--negatives drop|abs handles negative ones)")
    negative = value < 0
    if negative.any():
        if negatives == "abs":
            dropped["negative_made_positive"] = dropped.get("negative_made_positive", 0) + int(negative.sum())
            value = np.abs(value)
        else:
            dropped["negative"] = dropped.get("negative", 0) + int(negative.sum())
    if (value == 0).any():
        dropped["zero"] = dropped.get("zero", 0) + int((value == 0).sum())
    keep = value > 0
    sample, position, feature = (np.asarray(c)[keep].astype(np.int64) for c in (sample, position, feature))
    return ActivationBatch(sample, position, feature, value[keep])


def read_position_families(
    bundle: Path, lengths: NDArray[np.int64], kind: str
) -> dict[str, tuple[NDArray[np.int64], ...]]:
    """Families of positions: name to (sample, position, level), entries above level 0 only.

    In a set store every sample has the position 0 alone, with or without tokens.

    Raises:
        BadInput: a column of a wrong type, an index out of range, a negative level, a position twice.
    """
    path = bundle / "positions.parquet"
    if not path.exists():
        return {}
    table = read_table(path, ("sample", "position"))
    for name in table.column_names:
        column = table.column(name)
        if not pa.types.is_integer(column.type):
            raise BadInput(f"{path}: column {name!r} must hold integers, found {column.type}")
        if column.null_count:
            raise BadInput(
                f"{path}, row {int(np.flatnonzero(column.is_null().to_numpy())[0])}: {name} is null"
            )
        if not NAME.fullmatch(name):
            raise BadInput(f"{path}: family {name!r} must be named with letters, digits, '_' and '-'")
    sample, position = (table.column(c).to_numpy().astype(np.int64) for c in ("sample", "position"))
    n_positions = lengths[np.clip(sample, 0, len(lengths) - 1)] if kind == "sequence" else 1
    for bad, reason in (
        (
            (sample < 0) | (sample >= len(lengths)),
            f"sample is not a row of samples.parquet (0 to {len(lengths) - 1})",
        ),
        (
            (position < 0) | (position >= n_positions),
            "position is outside the sample's tokens"
            if kind == "sequence"
            else "position must be 0 in a set store",
        ),
    ):
        if bad.any():
            raise BadInput(f"{path}, row {int(np.flatnonzero(bad)[0])}: {reason}")
    key = sample * (int(position.max(initial=0)) + 1) + position
    _, first = np.unique(key, return_index=True)
    if len(first) < len(key):
        again = int(np.setdiff1d(np.arange(len(key)), first)[0])
        raise BadInput(
            f"{path}, row {again}: sample {sample[again]}, position {position[again]} is there more than once"
        )
    families: dict[str, tuple[NDArray[np.int64], ...]] = {}
    for name in table.column_names:
        if name in ("sample", "position"):
            continue
        level = table.column(name).to_numpy().astype(np.int64)
        if (level < 0).any():
            raise BadInput(
                f"{path}, row {int(np.flatnonzero(level < 0)[0])}: {name} {level[level < 0][0]} is negative"
            )
        families[name] = (sample[level > 0], position[level > 0], level[level > 0])
    return families
