"""What somebody's dashboard published about a feature, beside the overview's own answer."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.published_figures import THEIRS
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store
from tests.pipeline.json_sources import FIXTURES, load


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The import of an export of Neuronpedia's."""
    out = tmp_path_factory.mktemp("published") / "store"
    return load("neuronpedia", FIXTURES / "neuronpedia", out)


def test_the_overview_carries_what_was_published_and_says_whose_it_is(store: Store) -> None:
    found = feature_overview(store, 0, split="all")
    assert found.published is not None
    assert [one.model_dump() for one in found.published] == [
        {
            "source": "neuronpedia:gemma-2-2b/12-gemmascope-res-16k",
            "frac_nonzero": 0.0123,
            "max_act_approx": 12.5,
            "n_prompts_total": None,
            "promoted": ["▁cat", "▁cats", "Cat"],
            "suppressed": ["▁dog", "▁of"],
        }
    ]
    assert THEIRS in found.warnings


def test_a_sampled_store_claims_no_rates(store: Store) -> None:
    found = feature_overview(store, 0, split="all")
    firing = found.firing
    assert (firing.firing_rate, firing.rate_low, firing.mean, firing.ci_low) == (None, None, None, None)
    assert found.summary == (
        "4 activations of feature 0 are stored here, chosen ones in 2 units, the strongest 12.5; how often it fires "
        "cannot be known from them."
    )
    assert found.neighbours.rows == []
    silent = feature_overview(store, 5, split="all")
    assert "no activation of the feature is stored in this slice" in silent.warnings
    assert not silent.flagged


def test_other_answers_do_not_grow(store: Store, tmp_path: Path) -> None:
    nothing = feature_overview(store, 5, split="all")
    assert nothing.published is None
    assert "published" not in nothing.model_dump(mode="json")
    assert THEIRS not in nothing.warnings
    assert store.backend.folder is not None
    bare = Path(shutil.copytree(store.backend.folder, tmp_path / "store"))
    alone = feature_overview(open_store(bare), 0, split="all")
    assert "published" not in alone.model_dump(mode="json")
    # nor does what stands beside the store change the evidence
    assert alone.evidence == feature_overview(store, 0, split="all").evidence


def test_damaged_tables_are_told_and_leave_the_answer(store: Store, tmp_path: Path) -> None:
    assert store.backend.folder is not None
    copy = Path(shutil.copytree(store.backend.folder, tmp_path / "store"))
    tables = tmp_path / "store.validation"
    shutil.copytree(store.backend.folder.with_name("store.validation"), tables)
    path = tables / "master" / "published_features.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    found = feature_overview(open_store(copy), 0, split="all")
    assert (found.published, found.firing.max) == (None, 12.5)
    assert any(
        one.startswith("what was published about the feature cannot be read: ") for one in found.warnings
    )


def test_the_command_shows_them(store: Store) -> None:
    command = [
        sys.executable,
        "-m",
        "saeinterp_mcp",
        "overview",
        "0",
        "--store",
        str(store.backend.folder),
        "--json",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, encoding="utf-8")
    answer = json.loads(done.stdout)
    assert answer["published"][0]["max_act_approx"] == 12.5
