"""The planted worlds as stores of both backends."""

from pathlib import Path

import pytest

from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import memory_store
from saeinterp_mcp.store.open import open_store
from tests.worlds import builds, import_world, texts


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Store]]:
    """Backend to world to store."""
    made = {"builds": builds(), "texts": texts()}
    folder = tmp_path_factory.mktemp("worlds")
    return {
        "memory": {name: memory_store(world) for name, world in made.items()},
        "zarr": {name: open_store(import_world(world, folder / name)) for name, world in made.items()},
    }


@pytest.fixture(params=["memory", "zarr"])
def backend(request: pytest.FixtureRequest, stores: dict[str, dict[str, Store]]) -> dict[str, Store]:
    """Stores of one backend, by world."""
    return stores[request.param]


@pytest.fixture
def gear(backend: dict[str, Store]) -> Store:
    """The world `builds`."""
    return backend["builds"]


@pytest.fixture
def code(backend: dict[str, Store]) -> Store:
    """The world `texts`."""
    return backend["texts"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the test's own."""
    return tmp_path
