import json
import logging
from pathlib import Path

import numpy as np
import pytest

from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.loaders.batches import BatchScanLoader
from saeinterp_mcp.loaders.neuron_acts import NeuronActsLoader
from saeinterp_mcp.loaders.storage_config import StorageConfig
from saeinterp_mcp.loaders.transposed import TransposedLoader
from tests.loaders.seed_files import sparse_matrix, write_batches, write_neurons, write_transposed

MATRIX = sparse_matrix(20, 3, density=0.5)


@pytest.fixture
def storage(tmp_path: Path) -> StorageConfig:
    """All three formats of one matrix."""
    return StorageConfig(
        model_type="mine",
        data_dir=write_batches(MATRIX, tmp_path / "batches", (7,)),
        transposed_dir=write_transposed(MATRIX, tmp_path / "transposed"),
        neuron_acts_dir=write_neurons(MATRIX, tmp_path / "neurons"),
    )


def test_the_fallback_goes_from_transposed_to_neuron_files_to_a_scan(storage: StorageConfig) -> None:
    less = storage.model_copy(update={"transposed_dir": None})
    least = less.model_copy(update={"neuron_acts_dir": None})
    for config, kind in ((storage, TransposedLoader), (less, NeuronActsLoader), (least, BatchScanLoader)):
        loader = config.loader()
        assert isinstance(loader, kind)
        found = loader.load(1)
        assert found is not None
        assert found.indices.tolist() == np.flatnonzero(MATRIX[:, 1]).tolist()


def test_a_folder_that_holds_nothing_is_passed_with_a_warning(
    storage: StorageConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = storage.model_copy(update={"transposed_dir": tmp_path / "nowhere"})
    with caplog.at_level(logging.WARNING):
        assert isinstance(config.loader(), NeuronActsLoader)
    assert caplog.messages == [
        f"transposed_dir {tmp_path / 'nowhere'} holds no activations; reading neuron_acts_dir {tmp_path / 'neurons'}"
    ]


def test_an_unfinished_transposition_is_refused_and_not_passed_over(storage: StorageConfig) -> None:
    assert storage.transposed_dir is not None
    (storage.transposed_dir / "transposed_metadata.json").unlink()
    with pytest.raises(BadStore, match="the record of a finished transposition"):
        storage.loader().load(0)


def test_no_folder_at_all_is_refused_with_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        StorageConfig(model_type="ultra_full", data_dir=tmp_path / "ultra").loader()
    assert str(caught.value) == (
        f"no activations of 'ultra_full': nothing in data_dir {tmp_path / 'ultra'}. Set transposed_dir, "
        "neuron_acts_dir or data_dir (ACTIVATION_TRANSPOSED_DIR, ACTIVATION_NEURON_ACTS_DIR, ACTIVATION_DATA_DIR)."
    )


def test_a_file_names_the_folders_of_each_model(storage: StorageConfig, tmp_path: Path) -> None:
    models = {"mine": {"transposed_dir": "transposed"}, "other": {"data_dir": str(tmp_path / "elsewhere")}}
    (tmp_path / "models.json").write_text(json.dumps(models))
    (tmp_path / "models.yaml").write_text("mine:\n  transposed_dir: transposed\n")
    for name in ("models.json", "models.yaml"):
        config = StorageConfig.from_file(tmp_path / name, "mine")
        assert config == StorageConfig(model_type="mine", transposed_dir=tmp_path / "transposed")
    with pytest.raises(BadInput) as caught:
        StorageConfig.from_file(tmp_path / "models.json", "min")
    assert str(caught.value) == f"{tmp_path / 'models.json'} has no model 'min'; nearest: 'mine'"
    (tmp_path / "models.yaml").write_text("mine:\n  transpose_dir: transposed\n")
    with pytest.raises(BadInput, match="mine: transpose_dir: Extra inputs are not permitted"):
        StorageConfig.from_file(tmp_path / "models.yaml", "mine")


def test_the_environment_names_the_folders(storage: StorageConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACTIVATION_NEURON_ACTS_DIR", raising=False)
    monkeypatch.setenv("ACTIVATION_DATA_DIR", str(storage.data_dir))
    monkeypatch.setenv("ACTIVATION_TRANSPOSED_DIR", str(storage.transposed_dir))
    monkeypatch.setenv("ACTIVATION_EXAMPLES_DIR", "examples")
    config = StorageConfig.from_environment("mine")
    assert config == storage.model_copy(update={"neuron_acts_dir": None, "examples_dir": Path("examples")})
