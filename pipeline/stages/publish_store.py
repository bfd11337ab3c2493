"""Finished folders of arrays and tables become a store: hashes, manifest last, rename."""

import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.stages.write_postings import DRAFT
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.store.manifest import Manifest, read_manifest
from saeinterp_mcp.store.zarr_store import ZarrWriter, move_into_place, new_store_folder

LIBRARIES = ("numpy", "scipy", "zarr", "polars", "pyarrow")


def publish_store(
    prepared: tuple[Path, ...], out: Path, provenance: dict[str, Any], seeds: dict[str, int]
) -> Manifest:
    """Link (or copy) prepared folders into one, complete it with its manifest, rename it to `out`.

    Raises:
        BadInput: `out` exists.
    """
    folder = new_store_folder(out)
    try:
        for part in prepared:
            _link_tree(part, folder)
        draft = Manifest.model_validate_json((prepared[0] / DRAFT).read_text(encoding="utf-8"))
        made_by = {
            **provenance,
            "saeinterp": version("saeinterp-mcp"),
            "libraries": {name: version(name) for name in LIBRARIES},
        }
        manifest = ZarrWriter(folder).publish(
            draft.model_copy(update={"provenance": made_by, "seeds": seeds})
        )
        move_into_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def deliver_store(finished: Path, out: Path, log: list[dict[str, Any]]) -> Manifest:
    """Give a finished store its place: linked beside, then renamed. One that is there already is left alone.

    Raises:
        BadInput: `out` holds something else.
    """
    manifest = read_manifest(finished)
    if out.exists():
        try:
            same = read_manifest(out).fingerprint() == manifest.fingerprint()
        except BadStore as error:
            raise BadInput(f"{out} exists and is not this store; name another folder or remove it") from error
        if not same:
            raise BadInput(
                f"{out} holds another store; a store is never written over. Name another folder or remove it."
            )
        return manifest
    folder = new_store_folder(out)
    try:
        _link_tree(finished, folder)
        host = {"python": platform.python_version(), "system": platform.platform()}
        (folder / "build_log.json").write_text(
            canonical_json({"host": host, "stages": log}) + "\n", encoding="utf-8"
        )
        move_into_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _link_tree(source: Path, target: Path) -> None:
    """Hard-link every file of a tree (a store is never written to); copy where the file system cannot link."""
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        if path.is_file() and name.as_posix() not in (DRAFT, "artifact.json", "partial.json"):
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            # each part brings the metadata of the groups it has in common with others; zarr rewrites the root's
            if copy.exists():
                continue
            try:
                copy.hardlink_to(path)
            except OSError:
                shutil.copyfile(path, copy)
