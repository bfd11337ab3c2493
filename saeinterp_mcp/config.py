"""Settings: where the stores are. The only reader of environment variables and of files shipped with the code."""

import os
from importlib.metadata import version
from pathlib import Path

from saeinterp_mcp.frozen import Frozen

STORE_VARIABLE = "SAEINTERP_STORE"
DEMO_VARIABLE = "SAEINTERP_DEMO_STORE"
LABELS_VARIABLE = "SAEINTERP_LABELS"
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
    """File that records held-out tests, of whichever store; beside each store when not given."""

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read SAEINTERP_STORE (several are joined as in PATH), SAEINTERP_DEMO_STORE and SAEINTERP_LABELS."""
        locations = os.environ.get(STORE_VARIABLE, "").split(os.pathsep)
        named = {"demo_store": os.environ.get(DEMO_VARIABLE), "labels": os.environ.get(LABELS_VARIABLE)}
        places = {name: Path(place) for name, place in named.items() if place}
        return cls.model_validate({"stores": tuple(location for location in locations if location), **places})


def activation_folders() -> dict[str, Path]:
    """The folders that the storage guide's variables name, those that are set."""
    named = {folder: os.environ.get(variable) for folder, variable in ACTIVATION_VARIABLES.items()}
    return {folder: Path(place) for folder, place in named.items() if place}


def shipped_text(folder: str, name: str) -> str:
    """A text that is shipped with the code: from the wheel's data, or the repository it is installed from."""
    candidates = [_PACKAGE / "data" / folder / name, _PACKAGE.parent / folder / name]
    for path in candidates:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    raise AssertionError(f"{folder}/{name} is shipped with the code; looked in {candidates}")


def shipped_bundle() -> Path:
    """The bundle of the pycode example: in the wheel's data, or in the repository it is installed from."""
    packed = _PACKAGE / "data" / "pycode"
    return packed if packed.is_dir() else _PACKAGE.parent / "examples" / "pycode" / "bundle"
