"""The folder of tables beside a store (`demo-store` and `demo-store.validation`), which `validate` publishes.

It is as immutable as a store: `validate` puts a whole new folder in its place. Tables are read lazily, by feature.
"""

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from saeinterp_mcp.errors import BadStore, NotInStore
from saeinterp_mcp.frozen import Frozen, describe_validation
from saeinterp_mcp.validation.names import REMAKE, VERSION

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

SUFFIX = ".validation"
MANIFEST = "manifest.json"
MASTER = "master"
"""Subfolder of the tables; the JSON companions have subfolders of their own, as SAE_vis has them."""
VECTORS = "vectors"
OTHER_TEXTS = "explanation_embeddings/other_texts.json"
"""{data source: [features]} whose explanation is another than the one kept: that source's scores are of other words."""
VectorsName = Literal["explanations", "activations", "decoder", "phrases"]
"""`phrases`: a sample of phrases of explanations, which those of a feature are compared with."""
MAKE = "run `saeinterp-pipeline validate` with what it needs"


class EmbedderRecord(Frozen):
    """The model that gave texts their vectors."""

    name: str
    fingerprint: str
    dimensions: int


class FileRecord(Frozen):
    """One file."""

    bytes: int
    sha256: str


class ValidationManifest(Frozen):
    """What the folder holds and what made it. Written last."""

    format: Literal["saeinterp-validation"] = "saeinterp-validation"
    format_version: int = VERSION
    name: str
    sae_id: str
    n_features: int
    store: str | None = None
    """Lineage of the store that it goes with; None: of none in particular."""
    embedder: EmbedderRecord | None = None
    """None: texts were compared by their words only."""
    compat: bool = False
    """Whether numbers are computed as SAE_vis computed them."""
    seed: int = 0
    stages: dict[str, str] = {}
    """Stage to its fingerprint."""
    warnings: tuple[str, ...] = ()
    files: dict[str, FileRecord] = {}
    made_by: dict[str, Any] = {}


def folder_beside(store: Path) -> Path:
    """Where the tables of a store are."""
    resolved = store.resolve()
    return resolved.with_name(resolved.name + SUFFIX)


class Validation:
    """An opened folder."""

    def __init__(self, path: Path) -> None:
        """Read its manifest.

        Raises:
            BadStore: no such folder, foreign, newer or unfinished.
        """
        self.path = path
        file = path / MANIFEST
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            version = content.get("format_version") if isinstance(content, dict) else None
            if isinstance(version, int) and version > VERSION:
                raise BadStore(
                    file, f"format version {VERSION} or older", str(version), "Use a newer saeinterp."
                )
            self.manifest = ValidationManifest.model_validate(content)
        except ValidationError as error:
            raise BadStore(file, "the record of a validation", describe_validation(error), REMAKE) from error
        except (OSError, UnicodeDecodeError, ValueError) as error:
            raise BadStore(file, "the record of a validation", str(error), REMAKE) from error

    def has(self, table: str) -> bool:
        """Whether the table is there."""
        return f"{MASTER}/{table}.parquet" in self.manifest.files

    def table(self, name: str) -> "pl.LazyFrame":
        """A table, to be filtered before it is read.

        Raises:
            NotInStore: it was not made.
            BadStore: its file is missing, cut, or of other columns.
        """
        import polars as pl

        from saeinterp_mcp.validation.tables import (
            BY_NAME,
        )  # polars is slow to import, and mostly nobody asks

        path = self.path_of(name)
        try:
            frame = pl.scan_parquet(path)
            BY_NAME[name].check(frame, path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise BadStore(path, f"the table {name}", str(error).splitlines()[0], REMAKE) from error
        return frame

    def path_of(self, name: str) -> Path:
        """The file of a table.

        Raises:
            NotInStore: it was not made.
            BadStore: its file is missing or cut.
        """
        if not self.has(name):
            raise NotInStore(f"{self.path} holds no table {name!r}; {MAKE}")
        return self._file(f"{MASTER}/{name}.parquet")

    def sidecar(self, name: str) -> dict[str, Any]:
        """What made a table: `config_used`, `result_stats`, `warnings` and more."""
        content = self.document(f"{MASTER}/{name}.parquet.metadata.json")
        assert isinstance(content, dict), "write_sidecar writes a mapping"
        return content

    def of_feature(self, name: str, feature: int) -> "pl.DataFrame":
        """The rows of one feature, in their order."""
        import polars as pl

        return self.table(name).filter(pl.col("feature_id") == feature).collect()

    def vectors(self, name: VectorsName) -> "NDArray[np.float32] | None":
        """(n, d) directions of length 1, memory-mapped and read-only; None where there are none."""
        import numpy as np

        path = self.vectors_path(name)
        if path is None:
            return None
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    def vectors_path(self, name: VectorsName) -> Path | None:
        """The file of vectors; None where there are none."""
        relative = f"{VECTORS}/{name}.npy"
        return self._file(relative) if relative in self.manifest.files else None

    def document(self, relative: str) -> Any:
        """A JSON companion, by its place in the folder.

        Raises:
            NotInStore: it was not made.
        """
        if relative not in self.manifest.files:
            raise NotInStore(f"{self.path} holds no {relative}; {MAKE}")
        return json.loads(self._file(relative).read_text(encoding="utf-8"))

    def _file(self, relative: str) -> Path:
        path, expected = self.path / relative, self.manifest.files[relative].bytes
        size = path.stat().st_size if path.is_file() else None
        if size != expected:
            found = "no such file" if size is None else f"{size} bytes"
            raise BadStore(path, f"{expected} bytes", found, REMAKE)
        return path


def validation_beside(store: Path, lineage: str | None = None) -> Validation | None:
    """The opened folder beside a store; None when there is none.

    Raises:
        BadStore: it is damaged, or of another store.
    """
    folder = folder_beside(store)
    try:
        state = os.stat(folder / MANIFEST)
    except FileNotFoundError:
        return None
    found = _opened(folder, state.st_mtime_ns, state.st_ino)
    if lineage is not None and found.manifest.store not in (None, lineage):
        raise BadStore(
            folder / MANIFEST, f"tables of the store {lineage[:12]}", str(found.manifest.store)[:12], REMAKE
        )
    return found


@lru_cache(maxsize=8)
def _opened(folder: Path, mtime_ns: int, inode: int) -> Validation:
    return Validation(folder)
