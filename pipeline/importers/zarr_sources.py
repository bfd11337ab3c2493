"""The formats batch-zarr and transposed-zarr."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.importers.pieces import BAND_CELLS, Entries, Matrix, cut, dense_entries
from pipeline.importers.source import Source, SourceSection, all_files
from saeinterp_mcp.loaders.batches import CONVERSION, BatchFolder
from saeinterp_mcp.loaders.files import open_matrix, read_block
from saeinterp_mcp.loaders.transposed import ARRAY, RECORD, TransposedLoader


@dataclass(frozen=True)
class ZarrPiece:
    """Entries `start` to `stop` - 1 of the first axis of a Zarr array."""

    of: Matrix
    start: int
    stop: int

    def entries(self) -> Iterator[Entries]:
        """Read by bands of whole chunks."""
        array = open_matrix(self.of.path)
        n_columns = int(array.shape[1])
        rows = max(1, int(array.chunks[0]))
        columns = max(1, min(n_columns, int(array.chunks[1])))
        # a chunk is decoded whole, so a band is as many chunks as fit, and at least one
        if rows * n_columns > BAND_CELLS:
            columns *= max(1, BAND_CELLS // (rows * columns))
        else:
            columns = n_columns
            rows *= max(1, BAND_CELLS // max(1, rows * n_columns))
        for start in range(self.start, self.stop, rows):
            for first in range(0, n_columns, max(1, columns)):
                stop, last = min(start + rows, self.stop), min(first + columns, n_columns)
                block = read_block(array, self.of.path, slice(start, stop), slice(first, last))
                row, feature = (first, start) if self.of.by_feature else (start, first)
                moved = self.of._replace(
                    first_row=self.of.first_row + row, first_feature=self.of.first_feature + feature
                )
                yield from dense_entries(block, moved)


def zarr_pieces(of: Matrix) -> list[ZarrPiece]:
    """The pieces of one array, cut between chunks."""
    array = open_matrix(of.path)
    n, width = (int(x) for x in array.shape)
    return [ZarrPiece(of, a, b) for a, b in cut(n, width, max(1, int(array.chunks[0])))]


def open_batches(section: SourceSection) -> Source:
    """The seed's batch format.

    Raises:
        BadStore: it is damaged, unfinished, or its tables are not those of its arrays.
    """
    folder = BatchFolder(section.path, section.trust_arrays)
    pieces = [
        piece
        for batch in folder.batches
        for piece in zarr_pieces(Matrix(batch.path, batch.first_row, 0, False, section.negatives))
    ]
    files = all_files("activations", section.path / "activations")
    files |= {f"metadata/{path.name}": path for path in folder.metadata}
    record = section.path / CONVERSION
    if record.is_file():
        files[CONVERSION] = record
    embeddings = section.path / "embeddings"
    if embeddings.is_dir():
        for name in ("sae_input.zarr", "sae_recon.zarr"):
            files |= all_files(f"embeddings/{name}", embeddings / name)
    return Source(
        n_rows=folder.n_samples,
        n_features=folder.n_features,
        pieces=tuple(pieces),
        files=files,
        metadata=folder.metadata,
        n_activations=folder.n_activations,
        embeddings=embeddings if embeddings.is_dir() else None,
        provenance={"n_batches": len(folder.batches)},
    )


def open_transposed(section: SourceSection) -> Source:
    """The seed's transposed format.

    Raises:
        BadStore: there is none, or it is damaged or unfinished.
    """
    loader = TransposedLoader(section.path, section.trust_arrays)
    array: Path = loader.path
    n_features, n_samples = (int(n) for n in loader.array.shape)
    files = all_files(ARRAY, array)
    if (section.path / RECORD).is_file():
        files[RECORD] = section.path / RECORD
    return Source(
        n_rows=n_samples,
        n_features=n_features,
        pieces=tuple(zarr_pieces(Matrix(array, 0, 0, True, section.negatives))),
        files=files,
        n_activations=loader.recorded.get("n_activations"),
    )
