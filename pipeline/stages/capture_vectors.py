"""The adapter's vector at the hook for every sample.

The artifact holds `vectors.npy`, (n_samples, d_model) float32 in the order of `samples.parquet`. Row groups of the
samples are appended to it one by one. A run that was killed drops what is not a whole row group and goes on; because
batches are a function of the row group and `batch_samples`, it leaves the same bytes as one that was not.
"""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import Execution
from pipeline.set_config import SetCollectConfig, SetDatasetConfig, SetModelConfig
from pipeline.stage import Progress, Stage, Summary
from pipeline.stages.draw_samples import ROW_GROUP, SAMPLES
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen

if TYPE_CHECKING:
    from pipeline.sources.set_model import SetModel

VECTORS = "vectors.npy"


class CaptureVectorsConfig(Frozen):
    """The sections that decide the vectors."""

    model: SetModelConfig
    hook: str
    dataset: SetDatasetConfig
    collect: SetCollectConfig


def external(config: CaptureVectorsConfig) -> dict[str, Path]:
    """The adapter and its files."""
    from pipeline.sources.set_model import model_files

    return model_files(config.model)


def run(
    config: CaptureVectorsConfig,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    """Capture row group by row group; those that are in the file are not repeated."""
    from pipeline.sources.set_model import load_set_model

    model = load_set_model(config.model, execution)
    model.require_hook(config.hook)
    with pq.ParquetFile(inputs["draw_samples"] / SAMPLES) as samples:
        n_samples = samples.metadata.num_rows
        header = npy_header(n_samples, model.d_model)
        path = out / VECTORS
        with path.open("r+b" if path.is_file() else "w+b") as file:
            first = whole_row_groups(file, header, model.d_model)
            progress(min(first * ROW_GROUP, n_samples), n_samples)
            for index in range(first, samples.num_row_groups):
                for vectors in capture(samples.read_row_group(index), model, config):
                    file.write(vectors.tobytes())
                file.flush()
                progress(min((index + 1) * ROW_GROUP, n_samples), n_samples)
            os.fsync(file.fileno())
    check_spread(path)
    return Summary(n_in=n_samples, n_kept=n_samples, notes=(f"vectors of {model.d_model} numbers",))


def npy_header(n_samples: int, d_model: int) -> bytes:
    """The header of a .npy file of (n_samples, d_model) float32."""
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (n_samples, d_model)}
    np.lib.format.write_array_header_1_0(header, shape)
    return header.getvalue()


def whole_row_groups(file: BinaryIO, header: bytes, d_model: int) -> int:
    """How many row groups the file holds; cuts off what comes after them, and writes the header if it is new."""
    size = file.seek(0, os.SEEK_END)
    n_whole = max(0, size - len(header)) // (ROW_GROUP * d_model * 4)
    file.seek(0)
    if file.read(len(header)) != header:
        n_whole = 0
        file.seek(0)
        file.write(header)
    file.truncate(len(header) + n_whole * ROW_GROUP * d_model * 4)
    file.seek(0, os.SEEK_END)
    return n_whole


def capture(
    table: pa.Table, model: "SetModel", config: CaptureVectorsConfig
) -> Iterator[NDArray[np.float32]]:
    """The vectors of a table of samples, a batch at a time."""
    size = config.collect.batch_samples
    for start in range(0, table.num_rows, size):
        batch = table.slice(start, size)
        groups = {name: batch.column(name).to_pylist() for name in config.dataset.group_names}
        yield model.capture(batch.column("tokens").to_pylist(), groups, config.hook)


def read_vectors(folder: Path) -> NDArray[np.float32]:
    """(n_samples, d_model) float32, memory-mapped."""
    vectors: NDArray[np.float32] = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
    return vectors


def check_spread(path: Path) -> None:
    """Refuse vectors that are all the same: an adapter that looks at nothing."""
    vectors = read_vectors(path.parent)
    if len(vectors) > 1 and not any(
        (vectors[start : start + ROW_GROUP] != vectors[0]).any()
        for start in range(0, len(vectors), ROW_GROUP)
    ):
        raise BadInput(
            "the adapter returned the same vector for every sample; does `capture` read its tokens?"
        )


CAPTURE_VECTORS = Stage(
    name="capture_vectors",
    config=CaptureVectorsConfig,
    run=run,
    inputs=("draw_samples",),
    modules=(
        "pipeline.stages.capture_vectors",
        "pipeline.stages.draw_samples",
        "pipeline.set_views",
        "pipeline.sources.checkpoint",
        "pipeline.sources.model",
        "pipeline.sources.set_dataset",
        "pipeline.sources.set_model",
    ),
    external=external,
)
