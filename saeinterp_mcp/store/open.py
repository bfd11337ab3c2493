"""Open a store by its location: picks the backend, checks the version, opens read-only."""

from pathlib import Path

from saeinterp_mcp.store.base import Store


def open_store(location: Path | str, name: str | None = None) -> Store:
    """Open a published store folder.

    Raises:
        BadStore: not a store, damaged, truncated, foreign or newer.
    """
    from saeinterp_mcp.store.zarr_store import ZarrBackend

    backend = ZarrBackend(Path(location).expanduser())
    if backend.manifest().straight is not None:
        from saeinterp_mcp.store.straight_store import StraightBackend

        backend = StraightBackend(backend.path)
    return Store(backend, name)
