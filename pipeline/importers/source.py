"""What every format tells about a source before it is converted, and the options of an import."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from pipeline.importers.pieces import Piece
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.loaders.metadata import MetadataTable

Format = Literal[
    "batch-zarr", "transposed-zarr", "neuron-acts", "npz", "hdf5", "examples", "delphi", "activations-jsonl",
    "neuronpedia", "sae-dashboard",
]  # fmt: skip

PICKLES = (".pkl", ".pickle", ".joblib", ".pt", ".pth")
UNPICKLE = """\
a pickle runs whatever code its author put there, so it is never opened here. Where you trust the file, write its
arrays down once and import those:
  import joblib, numpy as np
  records = joblib.load({name!r})
  np.save("activations.npy", records["all_sae_hidden_activations"].astype("float32"))
(torch.load or pickle.load in place of joblib.load; the table of samples goes to metadata/batch_0000.parquet)"""


class SourceSection(Frozen):
    """Somebody's activations, and how to read them. Paths are not part of any fingerprint: contents are."""

    format: Format
    path: Path = Field(exclude=True)
    """File or folder."""
    name: str = Field(pattern=r"^[\w.-]+$")
    """Name of the store."""
    metadata: Path | None = Field(default=None, exclude=True)
    """Tables with tokens and groups, for formats that carry none."""
    vocab: Path | None = Field(default=None, exclude=True)
    """`{token: id}`; without it tokens are their ids as strings."""
    weapon_vocab: Path | None = Field(default=None, exclude=True)
    """`{weapon: id}`; without it weapons are their ids as strings."""
    families: Path | None = Field(default=None, exclude=True)
    """A YAML list in the form of bundle.yaml's `families`; without it they are found by the names of tokens."""
    decoder: Path | None = Field(default=None, exclude=True)
    """A .npy file, [n_features, d_model]."""
    unembedding: Path | None = Field(default=None, exclude=True)
    """A .npy file, [d_model, n_outputs]."""
    output_tokens: Path | None = Field(default=None, exclude=True)
    """A JSON list of n_outputs strings, or the vocabulary `{token: id}` of the outputs."""
    n_features: PositiveInt | None = None
    """How many features there are, where the source does not say."""
    n_samples: PositiveInt | None = None
    """How many rows there are, where the source does not say."""
    split_seed: NonNegativeInt = 0
    """Seed of the division of units into `explain` and `heldout`."""
    trust_arrays: bool = False
    """Take arrays for whole where nothing says that they were finished."""
    prompts: Path | None = Field(default=None, exclude=True)
    """`prompts.json` of activations in JSON lines; default the one beside them."""
    tokenizer: str | None = Field(default=None, exclude=True)
    """Folder or name (in this machine's cache) of the tokenizer that gives token ids their strings; default what the
    source names."""
    hookpoint: str | None = None
    """Which, where a source holds several: a hookpoint (delphi), or MODEL/SOURCE (Neuronpedia)."""
    explainer: str | None = None
    """The model that explained, where the source does not say or is wrong."""
    scorer: str | None = None
    """The model that scored."""
    bad_files: Literal["skip", "stop"] = "stop"
    """Whether a bad file or line ends the import, or is told and passed over (delphi's default)."""
    negatives: bool = False
    """Whether negative activations are let through to the stage that drops or turns them, and counts them."""

    @model_validator(mode="before")
    @classmethod
    def _a_run_has_bad_files(cls, values: Any) -> Any:
        """delphi writes tens of thousands of files, none of them at once: a cut one is told and passed over."""
        if isinstance(values, dict) and values.get("format") == "delphi" and values.get("bad_files") is None:
            return {**values, "bad_files": "skip"}
        return values


@dataclass(frozen=True)
class Source:
    """An opened source: how large it is, and what to read."""

    n_rows: int
    n_features: int
    pieces: tuple[Piece, ...]
    files: dict[str, Path]
    """Everything that is read, by a name within the source."""
    metadata: tuple[Path, ...] = ()
    """Its own tables, if it has any."""
    tables: Callable[[], Iterator[MetadataTable]] | None = None
    """Its samples, where they are not in files of tables."""
    token_names: Callable[[], dict[int, str]] | None = None
    """What token ids stand for, where the source knows; a vocabulary that is given wins."""
    coverage: Literal["full", "sampled"] = "full"
    n_activations: int | None = None
    """How many numbers are not 0, where the source says; checked after the conversion."""
    embeddings: Path | None = None
    """Folder with the SAE's inputs and reconstructions."""
    notes: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] | None = None
    """What the source says of the model, its `name` at least."""
    sae: dict[str, Any] | None = None


def refuse_pickles(*paths: Path | None) -> None:
    """Refuse what cannot be read without running code.

    Raises:
        BadInput: with the reason and the way to convert.
    """
    for path in paths:
        if path is None:
            continue
        found = [path] if path.suffix.lower() in PICKLES else []
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.is_file()]
            only = [p for p in inside if p.suffix.lower() in PICKLES]
            found = only if only and len(only) == len(inside) else []
        if found:
            raise BadInput(f"{found[0]} is a pickle: {UNPICKLE.format(name=found[0].name)}")


def default_name(path: Path) -> str:
    """A store's name from the name of its source."""
    place = path.resolve()
    # a folder may be called `layers.12`
    name = place.name if place.is_dir() and place.suffix != ".zarr" else place.stem
    return re.sub(r"[^\w.-]+", "_", name) or "imported"


def all_files(name: str, place: Path) -> dict[str, Path]:
    """`name/relative path` to file, hidden files too: Zarr of version 2 keeps its metadata in them."""
    if place.is_file():
        return {f"{name}/{place.name}": place}
    return {
        f"{name}/{path.relative_to(place).as_posix()}": path
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }
