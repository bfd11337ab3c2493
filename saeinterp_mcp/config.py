"""Settings: where the stores are. The only reader of environment variables and of files shipped with the code."""

import os
from importlib.metadata import version
from pathlib import Path

from saeinterp_mcp.frozen import Frozen

STORE_VARIABLE = "SAEINTERP_STORE"
DEMO_VARIABLE = "SAEINTERP_DEMO_STORE"
LABELS_VARIABLE = "SAEINTERP_LABELS"
AUTHOR_VARIABLE = "SAEINTERP_AUTHOR"
EMBEDDER_VARIABLE = "SAEINTERP_EMBEDDER"
ACTIVATION_VARIABLES = {
    "data_dir": "ACTIVATION_DATA_DIR",
    "transposed_dir": "ACTIVATION_TRANSPOSED_DIR",
    "neuron_acts_dir": "ACTIVATION_NEURON_ACTS_DIR",
    "examples_dir": "ACTIVATION_EXAMPLES_DIR",
}
"""Folder of the storage guide's formats to the variable that names it."""
VERSION = version("saeinterp-mcp")

_PACKAGE = Path(__file__).resolve().parent


class Settings(Frozen):
    """What the surroundings say; command-line arguments win over it."""

    stores: tuple[str, ...] = ()
    """Locations (PATH or NAME=PATH) of the stores to open when none is given."""
    demo_store: Path = Path("demo-store")
    """Folder of the shipped example store, as `make demo` leaves it."""

    labels: Path | None = None
    """File with the labels of whichever store; beside each store when not given."""

    embedder: str | None = None
    """Sentence-transformers model that compares texts: a folder, or a name in this machine's cache."""

    author: str | None = None
    """Who labels and notes are by, where the call does not say."""

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read SAEINTERP_STORE (several are joined as in PATH), _DEMO_STORE, _LABELS, _EMBEDDER and _AUTHOR."""
        locations = os.environ.get(STORE_VARIABLE, "").split(os.pathsep)
        named = {"demo_store": os.environ.get(DEMO_VARIABLE), "labels": os.environ.get(LABELS_VARIABLE)}
        places = {name: Path(place) for name, place in named.items() if place}
        return cls.model_validate(
            {
                "stores": tuple(location for location in locations if location),
                "author": os.environ.get(AUTHOR_VARIABLE) or None,
                "embedder": os.environ.get(EMBEDDER_VARIABLE) or None,
                **places,
            }
        )


def activation_folders() -> dict[str, Path]:
    """The folders that the storage guide's variables name, those that are set."""
    named = {folder: os.environ.get(variable) for folder, variable in ACTIVATION_VARIABLES.items()}
    return {folder: Path(place) for folder, place in named.items() if place}


def shipped_text(folder: str, name: str) -> str:
    """A text that is shipped with the code."""
    return (shipped_folder(folder) / name).read_text(encoding="utf-8")


def shipped_folder(folder: str) -> Path:
    """`prompts`, `skills` or `labels`: in the wheel's data, or in the repository it is installed from."""
    packed = _PACKAGE / "data" / folder
    return packed if packed.is_dir() else _PACKAGE.parent / folder


def shipped_bundle() -> Path:
    """The bundle of the pycode example: in the wheel's data, or in the repository it is installed from."""
    packed = _PACKAGE / "data" / "pycode"
    return packed if packed.is_dir() else _PACKAGE.parent / "examples" / "pycode" / "bundle"
