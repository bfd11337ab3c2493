"""`saeinterp-pipeline export`: a store in the seed's formats, in Neuronpedia's, or back as a bundle."""

from pathlib import Path

from pydantic import Field, NonNegativeFloat, PositiveInt

from pipeline.exporters.arrays import export_batches, export_neurons, export_transposed
from pipeline.exporters.bundle import export_bundle
from pipeline.exporters.examples import export_examples
from pipeline.exporters.folder import Progress, new_folder
from pipeline.exporters.neuronpedia import export_neuronpedia
from pipeline.exporters.neuronpedia_lines import CREATOR, Origin
from pipeline.exporters.source_rows import opened
from pipeline.exporters.statistics import export_histograms, export_idf, export_influences
from pipeline.exporters.zarr_arrays import ZarrFormat
from pipeline.progress import Reporter, default_reporter
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.frozen import Frozen

FORMATS = (
    "batch-zarr", "transposed-zarr", "neuron-acts", "examples", "histograms", "idf", "influences", "bundle",
    "neuronpedia",
)  # fmt: skip
OF_ALL_SAMPLES = ("batch-zarr", "transposed-zarr", "neuron-acts", "histograms", "idf")
"""What would take samples for silent that were never stored."""
DEFAULT_TOP_K = {"examples": 100, "influences": 30, "neuronpedia": 20}


class ExportOptions(Frozen):
    """How to export. An option that a format has no use for is left alone."""

    batch_size: PositiveInt = 500_000
    """Rows of a batch."""
    zarr_format: ZarrFormat = 3
    """Version of Zarr. The seed writes 3; 2 is for readers before zarr-python 3."""
    top_k: PositiveInt | None = None
    """Examples of a feature (default 100; neuronpedia 20), or outputs on either side (default 30)."""
    threshold: NonNegativeFloat = 0.1
    """Examples are above this."""
    bins: PositiveInt = 100
    """Bins of a histogram."""
    model_id: str | None = None
    """Neuronpedia's name of the model."""
    layer: str | None = None
    """Neuronpedia's name of the source: `12-gemmascope-res-16k`."""
    creator_id: str = CREATOR
    """The user of the Neuronpedia instance whom the records belong to."""
    creator_name: str = "saeinterp"
    release: str | None = None
    """Name of the release on Neuronpedia; default that of the source set."""
    workers: int = Field(default=1, ge=1)


def export_store(
    format: str,
    store: Path,
    out: Path,
    options: ExportOptions | None = None,
    progress: Reporter | None = None,
) -> dict[str, int]:
    """Write a store in another format; how much of what was written.

    Raises:
        BadInput: there is no such format, or `out` exists.
        BadStore: the store is damaged.
        NotInStore: the store does not hold what the format needs.
    """
    if format not in FORMATS:
        raise BadInput(f"no exporter for {format!r}; {nearest(format, FORMATS)}")
    opened.cache_clear()
    rows = opened(store)
    if format in OF_ALL_SAMPLES:
        rows.store.need_full_coverage(f"the export {format}")
    reporter = progress if progress is not None else default_reporter()
    with new_folder(out) as folder, reporter.working(f"export {format}") as advance:
        return _write(format, store, folder, options or ExportOptions(), advance)


def _write(format: str, store: Path, out: Path, o: ExportOptions, progress: Progress) -> dict[str, int]:
    arrays = {
        "batch-zarr": export_batches,
        "transposed-zarr": export_transposed,
        "neuron-acts": export_neurons,
    }
    if format in arrays:
        return arrays[format](store, out, o.batch_size, o.zarr_format, o.workers, progress)
    top_k = o.top_k or DEFAULT_TOP_K.get(format, 1)
    match format:
        case "examples":
            return export_examples(store, out, o.batch_size, top_k, o.threshold, o.workers, progress)
        case "histograms":
            return export_histograms(store, out, o.bins, o.workers, progress)
        case "idf":
            return export_idf(store, out, o.batch_size)
        case "influences":
            return export_influences(store, out, top_k, progress)
        case "neuronpedia":
            origin = Origin(o.model_id or "", o.layer or "", o.creator_id, o.creator_name, o.release)
            return export_neuronpedia(store, out, origin, top_k, o.workers, progress)
        case _:
            return export_bundle(store, out, o.workers, progress)
