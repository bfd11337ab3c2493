"""Where the model, the SAE and the documents come from: the sections of a run that name other people's files.

Paths are left out of fingerprints (`exclude=True`): the content of what they point to is hashed instead, so a
run that moves to another folder is still the same run. Relative paths are read from the folder of the config
file.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from pipeline.training.config import TrainSaeConfig
from saeinterp_mcp.frozen import Frozen


class Located(Frozen):
    """A section that may name a file or folder."""

    path: Path | None = Field(default=None, exclude=True)
    """A local file or folder; a relative one is read from the folder of the config file."""

    def resolved(self, base: Path) -> Self:
        """The same section with its path made absolute."""
        if self.path is None:
            return self
        return self.model_copy(update={"path": (base / self.path.expanduser()).resolve()})


class ModelConfig(Located):
    """The language model: a local Hugging Face directory (`path`) or a hub name (`hub`)."""

    hub: str | None = None
    """Name on the Hugging Face hub, such as `openai-community/gpt2`."""
    revision: str | None = None
    """Commit (or tag, or branch) of the hub model; must be given, because a name alone may change its
    content."""
    name: str | None = None
    """What the store calls it; default the hub name or the folder's name."""
    backend: Literal["huggingface", "transformer_lens"] = "huggingface"
    """`transformer_lens` runs it through TransformerBridge, with the same numbers, more slowly."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number type of the model's weights and activations while it runs. The SAE always runs in float32."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either path (a local directory) or hub (a hub name), not both")
        if self.hub is not None and self.revision is None:
            raise ValueError(
                "a hub name needs a revision (a commit hash): its content may change under the name"
            )
        return self

    @property
    def source(self) -> str:
        """What `from_pretrained` is called with."""
        return str(self.path) if self.path is not None else str(self.hub)

    @property
    def display_name(self) -> str:
        """What the store calls it."""
        return self.name or self.hub or Path(self.source).name


class SaeConfig(Located):
    """The sparse autoencoder: a local SAELens directory (`path`), or an SAELens `release` and `sae_id`."""

    release: str | None = None
    """Release name in SAELens' directory of pretrained SAEs, or a hub repository; needs sae-lens
    installed."""
    sae_id: str | None = None
    """Which SAE of the release."""
    name: str | None = None
    """What the store calls it; default `release/sae_id` or the folder's name."""
    hook_name: str | None = None
    """Where in the model it reads, such as `blocks.2.hook_resid_post`; only where its own metadata does not
    say, or with `override` in `tokenize`."""
    norm_scaling_factor: PositiveFloat | None = None
    """Factor the inputs were multiplied with in training (sqrt(d_in) / mean norm); must be given for an SAE
    saved with `normalize_activations: expected_average_only_in`, whose weights do not contain it yet."""
    train: TrainSaeConfig | None = Field(default=None, exclude=True)
    """How `train-sae` makes it, in `path` (docs/train-sae.md); `build` takes what is there."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.release is None):
            raise ValueError("give either path (a local SAELens directory) or release and sae_id, not both")
        if (self.release is None) != (self.sae_id is None):
            raise ValueError("release and sae_id go together")
        return self

    @property
    def display_name(self) -> str:
        """What the store calls it."""
        if self.name is not None:
            return self.name
        return self.path.name if self.path is not None else f"{self.release}/{self.sae_id}"


class TableConfig(Located):
    """Columns of a table of documents: one row, one document."""

    text: str | None = None
    """Column with the text, which the model's tokenizer cuts into tokens."""
    token_ids: str | None = None
    """Column with token ids of the model's tokenizer (lists of integers); then `text` is not read."""
    unit: str | None = None
    """Column that names what is independent; rows with one value count as one unit. Default: a hash of the
    content, so that exact duplicates are one unit."""
    groups: tuple[str, ...] = ()
    """Columns that become groups; numbers and booleans become text, null becomes `(none)`."""

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if (self.text is None) == (self.token_ids is None):
            raise ValueError(
                "give either text (a column of text) or token_ids (a column of token ids), not both"
            )
        return self


class FileTableConfig(TableConfig):
    """A table in one file, or in many with the same columns (a glob)."""

    format: Literal["parquet", "jsonl", "csv"]
    """`jsonl`: one JSON object on each line."""

    @model_validator(mode="after")
    def _has_path(self) -> Self:
        if self.path is None:
            raise ValueError("path is missing")
        return self


class HuggingFaceTableConfig(TableConfig):
    """A Hugging Face dataset: a folder written by `save_to_disk` (`path`), or a hub name, which is
    streamed."""

    format: Literal["huggingface"]
    hub: str | None = None
    """Name on the hub."""
    revision: str | None = None
    """Commit of the hub dataset; must be given with `hub`."""
    subset: str | None = None
    """Configuration of the hub dataset, where it has several."""
    split: str | None = None
    """Which split; must be given where there is more than one."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either path (a folder of save_to_disk) or hub (a hub name), not both")
        if self.hub is not None and (self.revision is None or self.split is None):
            raise ValueError("a hub dataset needs a revision (a commit hash) and a split")
        return self


class FolderConfig(Located):
    """A folder of UTF-8 text or source files; a file is a document."""

    format: Literal["folder"]
    include: tuple[str, ...] = Field(min_length=1)
    """Globs relative to the folder, such as `**/*.py`; a file that fits any is read."""
    exclude: tuple[str, ...] = ()
    """Globs of files to leave out."""
    unit: Literal["content", "path"] = "content"
    """What is independent: each distinct content (default), or each path."""
    path_parts: dict[str, int] = Field(default_factory=dict)
    """Group name to index of a part of the relative path: 0 the first folder (or the file's name), -1 the
    file."""

    @model_validator(mode="after")
    def _has_path(self) -> Self:
        if self.path is None:
            raise ValueError("path is missing")
        return self


DatasetConfig = Annotated[
    FileTableConfig | HuggingFaceTableConfig | FolderConfig, Field(discriminator="format")
]
