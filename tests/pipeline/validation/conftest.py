"""The tiny world, validated once a test run: by words only, with a tiny embedder, and as SAE_vis computed it."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from examples.validation.make_world import make_prompts, write_world
from pipeline.validation.run import run_validation
from pipeline.validation.stages import VALIDATION_STAGES
from pipeline.validation.vectors import TextVectors
from saeinterp_mcp.validation.folder import Validation
from tests.pipeline.validation.tiny_embedder import write_embedder
from tests.worlds import Quiet

STAGES = tuple(stage for stage in VALIDATION_STAGES if not stage.name.endswith("_maps"))
"""Maps take long to import, and have tests of their own."""


class Made(NamedTuple):
    """A world that was validated."""

    config: Path
    work: Path
    folder: Validation
    model: str = "none"

    def row(self, table: str, feature: int) -> dict[str, Any]:
        """The one row of a feature."""
        (row,) = self.folder.of_feature(table, feature).iter_rows(named=True)
        return row

    def rows(self, table: str) -> pl.DataFrame:
        """A whole table."""
        return self.folder.table(table).collect()

    def vector(self, text: str) -> NDArray[np.float32]:
        """The direction of a text, from the cache of the run."""
        found: NDArray[np.float32] = TextVectors(self.work / "vectors", self.model).of([text])[0]
        return found


def validated(folder: Path, embedder: str = "none", **options: Any) -> Made:
    """Write the world into a folder and run every stage over it but the maps."""
    config = write_world(folder, embedder=embedder, **options)
    out = run_validation(config, progress=Quiet(), stages=STAGES)
    return Made(config, folder / "work", Validation(out), embedder)


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that costs nothing."""
    return str(write_embedder(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def by_words(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Without an embedder."""
    return validated(tmp_path_factory.mktemp("by-words"))


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory, tiny_embedder: str) -> Made:
    """With the tiny embedder."""
    return validated(tmp_path_factory.mktemp("embedded"), tiny_embedder)


@pytest.fixture(scope="session")
def compat(tmp_path_factory: pytest.TempPathFactory, tiny_embedder: str) -> Made:
    """As SAE_vis computed it."""
    return validated(tmp_path_factory.mktemp("compat"), tiny_embedder, compat=True)


@pytest.fixture(scope="session")
def prompts() -> list[list[str]]:
    """The world's prompts."""
    return make_prompts()
