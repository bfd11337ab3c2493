"""An `activation_examples.parquet` made before, by SAE_vis or by us: any integer and float types, any spelling of the
SAE."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.importers.json_lines import BadPart
from pipeline.stage import Progress
from pipeline.validation.bad_rows import BadRows
from pipeline.validation.example_rows import Ints, Prompts, PromptSpool, Rows, RowSpool
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.loaders.base import to_float32
from saeinterp_mcp.validation.names import sae_id as spelled

COLUMNS = ("feature_id", "sae_id", "prompt_id", "prompt_tokens", "activation_pairs")
AT_ONCE = 8_192
STRINGS = (pa.string(), pa.large_string())


def read_table(
    path: Path,
    sae_id: str,
    prompts: PromptSpool,
    spool: RowSpool,
    bad: BadRows,
    compat: bool,
    progress: Progress,
) -> tuple[Prompts, Ints]:
    """Gather rows and prompts; the prompts, and which rows stood there before and are left out.

    A prompt's tokens are taken from its first row; another row with other tokens is bad.

    Raises:
        BadInput: it is no such table, is of another SAE, or holds a bad row, and bad ones end the run.
    """
    known: dict[int, NDArray[np.uint32]] = {}
    try:
        _check_columns(path)
        # tokens repeat in every row: as a dictionary they are read once a row group
        with pq.ParquetFile(path, read_dictionary=["prompt_tokens.list.element"]) as file:
            done, total = 0, file.metadata.num_rows
            for batch in file.iter_batches(AT_ONCE, columns=list(COLUMNS)):
                _check_sae(path, batch, sae_id)
                _add(path, batch, done, prompts, known, spool, bad, compat)
                done += len(batch)
                progress(done, total)
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{path} is no table that can be read: {error}") from error
    again, _ = spool.repeats()
    for i in again.tolist():
        feature, prompt = (int(spool.column(name)[i]) for name in ("feature", "prompt"))
        bad.met(
            path, f"feature {feature}, prompt {prompt}", BadPart("feature and prompt twice", "is there twice")
        )
    return prompts.all(), again


def _check_columns(path: Path) -> None:
    schema = pq.read_schema(path)
    missing = [name for name in COLUMNS if name not in schema.names]
    if missing:
        raise BadInput(f"{path} has no column {missing[0]!r}; it must hold {', '.join(COLUMNS)}")
    tokens = schema.field("prompt_tokens").type
    if not (pa.types.is_list(tokens) or pa.types.is_large_list(tokens)) or tokens.value_type not in STRINGS:
        raise BadInput(f"{path}: prompt_tokens must hold lists of strings, found {tokens}")


def _check_sae(path: Path, batch: "pa.RecordBatch", sae_id: str) -> None:
    for name in batch.column("sae_id").unique().to_pylist():
        if name is not None and spelled(str(name)) != sae_id:
            raise BadInput(f"{path} is of the SAE {spelled(str(name))!r}, and this run of {sae_id!r}")


def _add(
    path: Path,
    batch: "pa.RecordBatch",
    first_row: int,
    prompts: PromptSpool,
    known: dict[int, NDArray[np.uint32]],
    spool: RowSpool,
    bad: BadRows,
    compat: bool,
) -> None:
    feature, prompt = (_ids(path, batch, name) for name in ("feature_id", "prompt_id"))
    tokens, pairs = batch.column("prompt_tokens"), batch.column("activation_pairs")
    lengths, n_pairs = (_lengths(column) for column in (tokens, pairs))
    codes = prompts.codes_of(tokens.flatten())
    struct = pairs.flatten()
    position = _field(path, struct, "token_position")
    value = to_float32(_field(path, struct, "activation_value"))
    code_ends, pair_ends = np.cumsum(lengths), np.cumsum(n_pairs)
    kept: list[int] = []
    new: list[int] = []
    for i, number in enumerate(prompt.tolist()):
        mine = codes[code_ends[i] - lengths[i] : code_ends[i]]
        at = slice(int(pair_ends[i] - n_pairs[i]), int(pair_ends[i]))
        try:
            _check(mine, known.get(number), number, position[at], value[at])
        except BadPart as error:
            bad.met(path, f"row {first_row + i}", error)
            continue
        if number not in known:
            known[number] = mine
            new.append(number)
        kept.append(i)
    if new:
        found = [known[number] for number in new]
        prompts.add(np.array(new), np.array([len(one) for one in found]), np.concatenate(found))
    row = np.repeat(np.arange(len(prompt)), n_pairs)
    here = np.isin(row, kept) & ((value > 0) | compat)
    bad.dropped["activation of 0"] += int((np.isin(row, kept) & ~here).sum())
    counts = np.bincount(row[here], minlength=len(prompt))[kept]
    spool.add(Rows(feature[kept], prompt[kept], counts, position[here].astype(np.int64), value[here]))


def _check(
    tokens: NDArray[np.uint32],
    before: NDArray[np.uint32] | None,
    prompt: int,
    position: NDArray[Any],
    value: NDArray[np.float32],
) -> None:
    if before is not None and not np.array_equal(tokens, before):
        raise BadPart("prompt with other tokens", f"prompt {prompt} has other tokens than in an earlier row")
    if not len(position):
        return
    if position.min() < 0 or position.max() >= len(tokens):
        why = f"a position is not in prompt {prompt}, which has {len(tokens)} tokens"
        raise BadPart("position outside its prompt", why)
    if len(position) > 1 and len(np.unique(position)) < len(position):
        raise BadPart("position twice", f"a position of prompt {prompt} is there twice")
    if not (np.isfinite(value).all() and (value >= 0).all()):
        raise BadPart("activation not above 0", f"an activation in prompt {prompt} is negative or not finite")


def _ids(path: Path, batch: "pa.RecordBatch", name: str) -> Ints:
    column = batch.column(name)
    if not pa.types.is_integer(column.type) or column.null_count:
        raise BadInput(
            f"{path}: {name} must hold whole numbers, found {column.type}, {column.null_count} null"
        )
    ids: Ints = column.to_numpy(zero_copy_only=False).astype(np.int64)
    if len(ids) and not (ids.min() >= 0 and ids.max() < 2**32 - 1):
        raise BadInput(f"{path}: {name} must be from 0 to 2^32 - 2, found {ids.min()} to {ids.max()}")
    return ids


def _lengths(lists: "pa.Array") -> Ints:
    return np.asarray(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def _field(path: Path, pairs: "pa.Array", name: str) -> NDArray[Any]:
    """Numbers of a field of the pairs; null is not finite."""
    if not pa.types.is_struct(pairs.type) or pairs.type.get_field_index(name) < 0:
        raise BadInput(f"{path}: activation_pairs must hold token_position and activation_value")
    return np.asarray(pairs.field(name).cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)
