"""The store of the shipped example, made once a run by the ordinary import."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.importers.run_import import import_bundle
from tests.worlds import Quiet

# what decides a landing draws the same examples every time; everyone else explores
settings.register_profile("landing", derandomize=True)
if "SAEINTERP_LANDING" in os.environ:
    settings.load_profile("landing")

ROOT = Path(__file__).resolve().parents[1]
PYCODE = ROOT / "examples" / "pycode"


@pytest.fixture(scope="session")
def pycode_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's store, from the shipped bundle."""
    out = tmp_path_factory.mktemp("pycode") / "demo-store"
    import_bundle(PYCODE / "bundle", out, progress=Quiet())
    return out
