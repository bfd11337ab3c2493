"""A small run on the embedded model, built once, that the pipeline's tests look at and then change."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipeline.config import Execution, RunConfig
from pipeline.runner import run_stages
from pipeline.stages.check_load import CHECK_LOAD
from pipeline.stages.collect_activations import COLLECT_ACTIVATIONS
from pipeline.stages.measure_outputs import MEASURE_OUTPUTS
from pipeline.stages.tokenize_dataset import TOKENIZE_DATASET
from pipeline.stages.write_bundle import WRITE_BUNDLE
from tests.pipeline.recorded import Recorder

os.environ["HF_HUB_OFFLINE"] = "1"

EXAMPLE = Path(__file__).parents[2] / "examples" / "pycode"
STAGES = (TOKENIZE_DATASET, CHECK_LOAD, COLLECT_ACTIVATIONS, MEASURE_OUTPUTS, WRITE_BUNDLE)
N_DOCUMENTS = 16

THIRD_PARTY_WARNINGS = (
    # SWIG's generated types, in sentencepiece and others that transformers imports
    "ignore:builtin type .* has no __module__ attribute:DeprecationWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    for warning in THIRD_PARTY_WARNINGS:
        config.addinivalue_line("filterwarnings", warning)


@dataclass
class SmallRun:
    """A folder with a config on the embedded model, and how to build it."""

    folder: Path
    sections: dict[str, Any]
    said: Recorder = field(default_factory=Recorder)

    def config(self, **changed: Any) -> RunConfig:
        """The run's config with some sections replaced."""
        path = self.folder / "run.yaml"
        path.write_text(yaml.safe_dump(self.sections | changed), encoding="utf-8")
        return RunConfig.load(path)

    def build(self, only: str | None = None, **changed: Any) -> dict[str, Path]:
        """Run the stages; what the runner says is in `said`."""
        self.said = Recorder()
        config = self.config(**changed)
        return run_stages(STAGES, config, only=only, execution=Execution(device="cpu"), progress=self.said)


def small_sections(folder: Path) -> dict[str, Any]:
    documents = pl.read_parquet(EXAMPLE / "documents.parquet").head(N_DOCUMENTS)
    documents.write_parquet(folder / "documents.parquet")
    return {
        "name": "small",
        "model": {"path": str(EXAMPLE / "model")},
        "sae": {"path": str(EXAMPLE / "sae")},
        "dataset": {
            "format": "parquet",
            "path": "documents.parquet",
            "token_ids": "token_ids",
            "unit": "unit",
            "groups": ["module", "kind"],
        },
        "tokenize": {"shard_tokens": 700},
        "collect": {"batch_tokens": 2048},
        "checks": {"n_tokens": 1500},
        "outputs": {"n_features": 4, "n_samples": 10, "n_samples_per_feature": 2, "min_firing": 4},
        "groups": [{"name": "module", "primary": True}],
        "families": [
            {"name": "digits", "match": r" ?(?P<level>\d+)", "level": "length"},
            {"name": "depth", "position_family": "brackets_depth", "max_level": 3},
        ],
    }


@pytest.fixture
def small_run(tmp_path: Path) -> SmallRun:
    """A run of its own, not built yet."""
    return SmallRun(tmp_path, small_sections(tmp_path))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small run's finished artifacts, by stage; only to look at."""
    folder = tmp_path_factory.mktemp("built")
    return SmallRun(folder, small_sections(folder)).build()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Path]:
    """Saves a random model of a transformers config with the embedded tokenizer, and returns the folder."""

    def save(config: Any) -> Path:
        import shutil

        import torch
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(config.model_type)
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name:  # as trained ones are: neither all 1 nor all 0
                torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.3)
        model.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EXAMPLE / "model" / name, folder / name)
        return folder

    return save
