"""A finished folder of arrays and tables becomes a store: hashes, manifest last, rename."""

import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.stages.write_postings import DRAFT
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.store.manifest import Manifest
from saeinterp_mcp.store.zarr_store import ZarrWriter, move_into_place, new_store_folder

LIBRARIES = ("numpy", "scipy", "zarr", "polars", "pyarrow")


def publish_store(prepared: Path, out: Path, provenance: dict[str, Any], seeds: dict[str, int], log: Any) -> Manifest:
    """Link (or copy) a prepared folder to a temporary name beside `out`, complete it, rename it to `out`.

    Raises:
        BadInput: `out` exists.
    """
    folder = new_store_folder(out)
    try:
        shutil.copytree(prepared, folder, copy_function=link_or_copy, ignore=shutil.ignore_patterns(DRAFT, "artifact.json"))
        draft = Manifest.model_validate_json((prepared / DRAFT).read_text(encoding="utf-8"))
        libraries = {name: version(name) for name in LIBRARIES}
        update = {"provenance": {**provenance, "saeinterp": version("saeinterp-mcp"), "libraries": libraries}, "seeds": seeds}
        manifest = ZarrWriter(folder).publish(draft.model_copy(update=update))
        host = {"python": platform.python_version(), "system": platform.platform()}
        (folder / "build_log.json").write_text(canonical_json({"host": host, "stages": log}) + "\n", encoding="utf-8")
        move_into_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def link_or_copy(source: str, target: str) -> None:
    """Hard-link a file (a store is never written to), or copy it where the file system cannot link."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
