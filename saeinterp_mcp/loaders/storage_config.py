"""StorageConfig: where one model's activations are, and which loader reads them.

Everything is said in so many words, by keyword, by a file, or by the environment; nothing is guessed from the
words in a folder's name.
"""

import logging
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from saeinterp_mcp.config import activation_folders
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.frozen import Frozen, describe_validation
from saeinterp_mcp.loaders.base import ActivationLoader, Negatives
from saeinterp_mcp.loaders.batches import BatchScanLoader
from saeinterp_mcp.loaders.neuron_acts import NeuronActsLoader
from saeinterp_mcp.loaders.transposed import TransposedLoader

logger = logging.getLogger(__name__)


class StorageConfig(Frozen):
    """Where the activations of one model are."""

    model_type: str
    """Any name; it decides nothing."""
    data_dir: Path | None = None
    """Folder of the batch format: `activations/`, `metadata/`, `conversion_metadata.json`."""
    examples_dir: Path | None = None
    """Folder of the examples store. No loader reads it, since it holds chosen samples only: `import examples` does."""
    transposed_dir: Path | None = None
    """Folder that holds `transposed_activations.zarr`."""
    neuron_acts_dir: Path | None = None
    """Folder that holds `neuron_NNNN/`."""
    trust_arrays: bool = False
    """Take arrays for whole where nothing says that they were finished."""
    negatives: Negatives = None
    """What to do with negative activations; without it they are refused."""

    @classmethod
    def from_file(cls, path: Path, model_type: str) -> "StorageConfig":
        """Read one model's section of a YAML or JSON file: `{model: {data_dir: ..., ...}}`.

        Relative paths are read from the file's folder.

        Raises:
            BadInput: the file is missing or unfit, or has no such model.
        """
        if not path.is_file():
            raise BadInput(f"{path} does not exist or is not a file")
        try:
            content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise BadInput(f"{path} is neither YAML nor JSON: {error}") from error
        if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
            raise BadInput(f"{path} must hold a mapping from the names of models to their folders")
        if model_type not in content:
            raise BadInput(f"{path} has no model {model_type!r}; {nearest(model_type, map(str, content))}")
        try:
            config = cls.model_validate({"model_type": model_type, **content[model_type]})
        except ValidationError as error:
            raise BadInput(f"{path}: {model_type}: {describe_validation(error)}") from error
        folders = {name: path.parent / folder for name, folder in config._folders().items()}
        return config.model_copy(update=folders)

    @classmethod
    def from_environment(cls, model_type: str = "default") -> "StorageConfig":
        """Read ACTIVATION_DATA_DIR, ACTIVATION_TRANSPOSED_DIR, ACTIVATION_NEURON_ACTS_DIR, ACTIVATION_EXAMPLES_DIR."""
        return cls(model_type=model_type, **activation_folders())

    def loaders(self) -> tuple[tuple[str, Path | None, ActivationLoader], ...]:
        """Format, folder and loader, fastest first."""
        trust, negatives = self.trust_arrays, self.negatives
        return (
            (
                "transposed_dir",
                self.transposed_dir,
                TransposedLoader(self.transposed_dir, trust, negatives),
            ),
            (
                "neuron_acts_dir",
                self.neuron_acts_dir,
                NeuronActsLoader(self.neuron_acts_dir, negatives=negatives),
            ),
            ("data_dir", self.data_dir, BatchScanLoader(self.data_dir, trust, negatives)),
        )

    def loader(self) -> ActivationLoader:
        """The first loader whose files are there: transposed, neuron files, a scan of the batches.

        Raises:
            BadInput: none is.
        """
        looked: list[str] = []
        for name, folder, loader in self.loaders():
            if loader.is_available:
                for passed in looked:
                    logger.warning("%s holds no activations; reading %s %s", passed, name, folder)
                return loader
            if folder is not None:
                looked.append(f"{name} {folder}")
        there = "; ".join(f"nothing in {place}" for place in looked) or "no folder is given"
        raise BadInput(
            f"no activations of {self.model_type!r}: {there}. Set transposed_dir, neuron_acts_dir or data_dir "
            "(ACTIVATION_TRANSPOSED_DIR, ACTIVATION_NEURON_ACTS_DIR, ACTIVATION_DATA_DIR)."
        )

    def _folders(self) -> dict[str, Path]:
        names = ("data_dir", "examples_dir", "transposed_dir", "neuron_acts_dir")
        given = {name: getattr(self, name) for name in names}
        return {name: folder for name, folder in given.items() if folder is not None}
