"""Open a store by its location: picks the backend, checks the version, opens read-only."""

from pathlib import Path

from saeinterp_mcp.labels.database import LabelFile, labels_beside
from saeinterp_mcp.store.base import Store


def is_url(location: Path | str) -> bool:
    """Whether a location is read over HTTP."""
    return str(location).startswith(("http://", "https://"))


def open_store(location: Path | str, name: str | None = None, labels: Path | None = None) -> Store:
    """Open a published store: a folder, or the URL of one that a web server gives out.

    What `saeinterp-pipeline validate` left beside a folder is found when it is asked for (`Store.validation`).

    Args:
        location: folder or URL.
        name: to serve it under; its own when not given.
        labels: the labels file; beside the folder when not given.

    Raises:
        BadStore: not a store, damaged, truncated, foreign or newer.
    """
    from saeinterp_mcp.store.zarr_store import ZarrBackend

    if is_url(location):
        from saeinterp_mcp.store.http_store import HttpBackend

        return Store(HttpBackend(str(location)), name, LabelFile(labels) if labels else None)
    backend = ZarrBackend(Path(location).expanduser())
    if backend.manifest().straight is not None:
        from saeinterp_mcp.store.straight_store import StraightBackend

        backend = StraightBackend(backend.path)
    return Store(backend, name, LabelFile(labels) if labels else labels_beside(backend.path))
