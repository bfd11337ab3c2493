"""What the stages from bundle to store see of a run, and how they read what earlier ones wrote."""

from pathlib import Path

from pydantic import Field

from pipeline.config import StoreConfig
from pipeline.importers.bundle import read_config
from pipeline.stages.order_samples import DRAFT
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import MANIFEST, Manifest, read_manifest
from saeinterp_mcp.store.zarr_store import ZarrBackend


class BundleSource(Frozen):
    """The bundle to import."""

    path: Path = Field(exclude=True)


class StoreSection(Frozen):
    """What the stages after the first see."""

    store: StoreConfig


class ImportSection(StoreSection):
    """What stages see that read a bundle from outside the run."""

    bundle: BundleSource


class BaseSource(Frozen):
    """The store that is appended to, or compacted."""

    path: Path = Field(exclude=True)


class GrowSection(StoreSection):
    """What stages see that add samples to a store; the bundle comes from an earlier stage."""

    base: BaseSource


class AppendSection(ImportSection, GrowSection):
    """The same with a bundle from outside the run."""


def base_files(base: BaseSource) -> dict[str, Path]:
    """A store as external input: its manifest, which holds the hash of every other file."""
    read_manifest(base.path)
    return {"base/manifest.json": base.path / MANIFEST}


def append_files(config: AppendSection) -> dict[str, Path]:
    """The external input of an append."""
    return {**bundle_files(config), **base_files(config.base)}


def grow_files(config: GrowSection) -> dict[str, Path]:
    """The external input of an append whose bundle comes from an earlier stage."""
    return base_files(config.base)


def bundle_files(config: ImportSection) -> dict[str, Path]:
    """The external input of an import: checked to be a bundle before its files are hashed."""
    read_config(config.bundle.path)
    folder = config.bundle.path
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}


def open_draft(*folders: Path) -> Store:
    """What earlier stages have written of a store; the first folder holds the draft of the manifest."""
    manifest = Manifest.model_validate_json((folders[0] / DRAFT).read_text(encoding="utf-8"))
    return Store(ZarrBackend(*folders, draft=manifest))
