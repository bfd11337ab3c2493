"""Finished folders of arrays and tables become a store: hashes, manifest last, rename."""

import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.linking import link_tree
from pipeline.stages.order_samples import DRAFT, PLACING
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.store.manifest import Manifest, read_manifest
from saeinterp_mcp.store.zarr_writer import ZarrWriter, move_into_place, new_store_folder

BUILD_LOG = "build_log.json"
"""Times and machine, outside the manifest; of an import also what it was made of."""
LIBRARIES = ("numpy", "scipy", "zarr", "polars", "pyarrow")


def publish_store(
    prepared: tuple[Path, ...], out: Path, provenance: dict[str, Any], seeds: dict[str, int]
) -> Manifest:
    """Link (or copy) prepared folders into one, complete it with its manifest, rename it to `out`.

    Raises:
        BadInput: `out` exists.
        BadStore: a file is no longer what the stage that wrote it left.
    """
    folder = new_store_folder(out)
    try:
        for part in prepared:
            link_tree(part, folder, _published)
        draft = Manifest.model_validate_json((prepared[0] / DRAFT).read_text(encoding="utf-8"))
        made_by = {
            **provenance,
            "saeinterp": version("saeinterp-mcp"),
            "libraries": {name: version(name) for name in LIBRARIES},
        }
        manifest = ZarrWriter(folder).publish(
            draft.model_copy(update={"provenance": made_by, "seeds": seeds})
        )
        _check_unchanged(prepared, manifest)
        move_into_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _check_unchanged(prepared: tuple[Path, ...], manifest: Manifest) -> None:
    """The hashes of the store are those of the artifacts: a disk that flips a bit must not have it published."""
    for part in prepared:
        record = part / "artifact.json"
        if not record.is_file():
            continue
        for name, entry in json.loads(record.read_text(encoding="utf-8"))["files"].items():
            found = manifest.files.get(name)
            if found is not None and not name.endswith("zarr.json") and found.sha256 != entry["sha256"]:
                raise BadStore(
                    part / name,
                    f"sha256 {entry['sha256'][:16]}... as it was written",
                    f"{found.sha256[:16]}...",
                    f"Remove {part} and run again: the disk changed it.",
                )


def deliver_store(
    finished: Path, out: Path, log: list[dict[str, Any]], content: str | None = None
) -> Manifest:
    """Give a finished store its place: linked beside, then renamed. One that is there already is left alone.

    `content` names what it was made of; it is written down beside the log.

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
        link_tree(finished, folder)
        host = {"python": platform.python_version(), "system": platform.platform()}
        told = {"host": host, "stages": log, **({} if content is None else {"content": content})}
        (folder / BUILD_LOG).write_text(canonical_json(told) + "\n", encoding="utf-8")
        move_into_place(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return manifest


def _published(name: Path) -> bool:
    return name.parts[0] not in (DRAFT, PLACING, "artifact.json", "partial.json")
