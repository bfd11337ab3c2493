"""Settings: where the stores are. The only reader of environment variables and of files shipped with the code."""

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt, ValidationError

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen, describe_validation

STORE_VARIABLE = "SAEINTERP_STORE"
DEMO_VARIABLE = "SAEINTERP_DEMO_STORE"
LABELS_VARIABLE = "SAEINTERP_LABELS"
AUTHOR_VARIABLE = "SAEINTERP_AUTHOR"
EMBEDDER_VARIABLE = "SAEINTERP_EMBEDDER"
PRICES_VARIABLE = "SAEINTERP_PRICES"
JUDGES_VARIABLE = "SAEINTERP_JUDGES"
JUDGE_BUDGET_VARIABLE = "SAEINTERP_JUDGE_BUDGET"
THINK_VARIABLE = "SAEINTERP_THINK_TOKENS"
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

    prices: Path | None = None
    """What language models cost, over the table that is shipped (`saeinterp_mcp/asking/prices.yaml`)."""

    judges: tuple[str, ...] = ()
    """Language models that `label_score` may ask (as in `clients.open_client`), the default one first: a caller names
    one of these and no other, so nobody makes a server spend money or call an address that was not agreed on."""

    judge_budget: NonNegativeFloat | None = None
    """US dollars that `label_score` may spend on them for one store in all."""

    think_tokens: NonNegativeInt = 0
    """Room in each answer for a model that thinks before it answers."""

    author: str | None = None
    """Who labels and notes are by, where the call does not say."""

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read SAEINTERP_STORE (several are joined as in PATH), _DEMO_STORE, _LABELS, _EMBEDDER, _PRICES, _JUDGES (with
        commas between), _JUDGE_BUDGET, _THINK_TOKENS and _AUTHOR.

        Raises:
            BadInput: a variable does not fit.
        """
        locations = os.environ.get(STORE_VARIABLE, "").split(os.pathsep)
        judges = os.environ.get(JUDGES_VARIABLE, "").split(",")
        variables = {
            "demo_store": DEMO_VARIABLE,
            "labels": LABELS_VARIABLE,
            "prices": PRICES_VARIABLE,
            "judge_budget": JUDGE_BUDGET_VARIABLE,
            "think_tokens": THINK_VARIABLE,
            "author": AUTHOR_VARIABLE,
            "embedder": EMBEDDER_VARIABLE,
        }
        named = {name: os.environ.get(variable) for name, variable in variables.items()}
        values: dict[str, Any] = {name: value for name, value in named.items() if value}
        values["stores"] = tuple(location for location in locations if location)
        values["judges"] = tuple(judge.strip() for judge in judges if judge.strip())
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            names = ", ".join(variables.get(str(part["loc"][0]), "") for part in error.errors())
            raise BadInput(f"environment variable {names}: {describe_validation(error)}") from None


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


def shipped_prices() -> Path:
    """The table of what language models cost."""
    return _PACKAGE / "asking" / "prices.yaml"


def shipped_bundle() -> Path:
    """The bundle of the pycode example: in the wheel's data, or in the repository it is installed from."""
    packed = _PACKAGE / "data" / "pycode"
    return packed if packed.is_dir() else _PACKAGE.parent / "examples" / "pycode" / "bundle"
