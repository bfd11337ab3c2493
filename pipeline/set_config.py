"""What a run over sets is told (`kind: set`): a model of one's own behind an adapter, sets, and an SAE.

Paths are left out of fingerprints (`exclude=True`), as in `pipeline.source_config`: the content of what they point to
is hashed instead. Relative paths are read from the folder of the config file.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from pipeline.config import (
    FAMILY_NAME,
    Execution,
    FamilyConfig,
    GroupConfig,
    PositionFamily,
    RunConfig,
    SearchFloor,
    StoreConfig,
)
from pipeline.source_config import Located
from pipeline.training.config import TrainSaeConfig
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.frozen import Frozen, FrozenFile

WEAPON, VIEW, NULL_SAMPLE = "weapon", "view", "null_sample"
RESERVED = ("tokens", "unit", "set", VIEW, NULL_SAMPLE)
"""Columns that the samples have anyway."""

GroupName = Annotated[str, Field(pattern=FAMILY_NAME)]


class SetModelConfig(Frozen):
    """A model of one's own: a Python file with one class that runs it (docs/own-model.md)."""

    model_config = ConfigDict(populate_by_name=True)

    adapter: Path = Field(exclude=True)
    """The Python file. It is run, so it must be yours or one that you trust."""
    class_name: str | None = Field(default=None, alias="class")
    """Which class of the file; default the only one that has `capture`."""
    files: dict[str, Path] = Field(default_factory=dict, exclude=True)
    """Name to file or folder; the adapter is handed them as absolute paths."""
    name: str | None = None
    """What the store calls the model; default the adapter's file name."""

    @property
    def display_name(self) -> str:
        """What the store calls it."""
        return self.name or self.adapter.stem

    def resolved(self, base: Path) -> Self:
        """The same section with absolute paths."""
        files = {name: absolute(base, path) for name, path in self.files.items()}
        return self.model_copy(update={"adapter": absolute(base, self.adapter), "files": files})


class ViewsConfig(Frozen):
    """Masked partial views: what a set-completion model is trained on."""

    n: PositiveInt = 5
    """Views drawn of each set; they share its unit."""
    exponent: NonNegativeFloat = 1.2
    """P(k tokens removed) is proportional to k to this, for k from 1 to all but one."""
    seed: NonNegativeInt = 0
    """With the set's row it decides the views."""
    keep_full: bool = True
    """Whether the whole set is a sample too."""


class SetTableConfig(Located):
    """A table of sets: one row, one set."""

    unit: str | None = None
    """Column that names what is independent. Default: a hash of the set's tokens and group values, so that exact
    duplicates are one unit."""
    groups: tuple[GroupName, ...] = ()
    """Columns that become groups; numbers and booleans become text, null becomes `(none)`."""
    null_samples: GroupName | None = None
    """A group: one sample without tokens is added for each of its values, the model's answer to the group alone."""
    views: ViewsConfig | None = None
    """Without this, every set is one sample."""
    max_sets: PositiveInt | None = None
    """Read no more sets than this; the others are counted as dropped."""

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups that every set carries, in order."""
        return self.groups

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.path is None:
            raise ValueError("path is missing")
        for name in self.group_names:
            if name in RESERVED:
                raise ValueError(f"a group cannot be called {name!r}; rename the column")
            if self.group_names.count(name) > 1:
                raise ValueError(f"group {name!r} is listed twice")
        if self.null_samples is not None and self.null_samples not in self.group_names:
            raise ValueError(
                f"null_samples names no group: {self.null_samples!r}; {nearest(self.null_samples, self.group_names)}"
            )
        return self


class ParquetSetsConfig(SetTableConfig):
    """Sets in a Parquet file."""

    format: Literal["parquet"]
    tokens: str = "tokens"
    """Column with the tokens: lists of strings. A token that a list repeats counts once."""


class TokenizedCsvConfig(SetTableConfig):
    """The seed's `tokenized_data.csv`: token ids and a weapon's id in each row, tab or comma between them."""

    format: Literal["tokenized_csv"]
    tokens: str = "ability_tags"
    """Column with a JSON list of token ids. Special tokens (`<NULL>`, `<PAD>`, `<MASK>`) are left out."""
    weapon: str | None = "weapon_id"
    """Column with the weapon's id, which becomes the group `weapon`; null where there is none."""
    vocab: Path = Field(exclude=True)
    """JSON object: token to id."""
    weapon_vocab: Path | None = Field(default=None, exclude=True)
    """JSON object: weapon to id; without it the group's values are the ids."""

    @property
    def group_names(self) -> tuple[str, ...]:
        """`weapon`, then the others."""
        others = tuple(name for name in self.groups if name != WEAPON)
        return self.groups if self.weapon is None else (WEAPON, *others)

    def resolved(self, base: Path) -> Self:
        """The same section with absolute paths."""
        found = super().resolved(base)
        weapons = None if self.weapon_vocab is None else absolute(base, self.weapon_vocab)
        return found.model_copy(update={"vocab": absolute(base, self.vocab), "weapon_vocab": weapons})


SetDatasetConfig = Annotated[ParquetSetsConfig | TokenizedCsvConfig, Field(discriminator="format")]


class SetSaeConfig(Located):
    """The sparse autoencoder: one that is there (`path`), or one to train on these samples (`train`)."""

    path: Path | None = Field(default=None, exclude=True)
    """A SAELens directory, or the seed's `sae_model_final.pth`."""
    train: TrainSaeConfig | None = None
    """How to train one (docs/train-sae.md)."""
    name: str | None = None
    """What the store calls it; default the folder's or file's name, or `trained`."""
    norm_scaling_factor: PositiveFloat | None = None
    """For an SAE saved with `normalize_activations: expected_average_only_in`: sqrt(d_in) / mean norm in training."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.train is None):
            raise ValueError("give either path (an SAE that is there) or train (how to train one), not both")
        return self

    @property
    def display_name(self) -> str:
        """What the store calls it."""
        return self.name or ("trained" if self.path is None else self.path.stem)


class SetChecksConfig(Frozen):
    """The load checks: does this SAE belong to this model, hook and data? As those of sequences, over samples."""

    n_samples: PositiveInt = 16_384
    """Samples of the seeded draw that the checks run on; null samples are not among them."""
    seed: NonNegativeInt = 0
    """Seed of the draw and of the shuffled decoder."""
    expected_l0: PositiveFloat | None = None
    """Mean number of features firing on a sample; default what the SAE's metadata states (`l0` or `k`)."""
    l0_tolerance: PositiveFloat = 0.35
    """How far L0 may be from that, as a fraction of it."""
    min_explained_variance: float = 0.5
    """Smallest share of the vectors' variance that the reconstruction must explain."""
    min_loss_recovered: float = 0.5
    """Smallest share of the read-out's loss between mean ablation and the clean model that the reconstruction wins
    back."""
    max_dead_fraction: float = Field(default=0.9, ge=0, le=1)
    """Largest share of features that never fire on the drawn samples."""
    allow: tuple[str, ...] = ()
    """Names of checks whose failure is recorded but does not stop the build."""


class SetCollectConfig(Frozen):
    """How vectors and activations are collected."""

    batch_samples: PositiveInt = 1024
    """Samples handed to the adapter at a time. Another value may move vectors at the last float digit."""
    min_activation: NonNegativeFloat = 0.0
    """Activations at or below this are not stored, and counted; above 0 the store is no longer complete."""


class SetOutputsConfig(Frozen):
    """The decoder's effect on the read-out, compared with removing features."""

    n_features: PositiveInt = 32
    """Features removed, spread over those that fire."""
    n_samples_per_feature: PositiveInt = 8
    """Samples on which one feature is removed: those where it fires first in the seeded draw."""


class SetRunConfig(FrozenFile):
    """A whole run over sets, read from a YAML file."""

    kind: Literal["set"]
    """What the samples are; without it, or with `sequence`, the file is a `RunConfig`."""
    name: str = Field(pattern=r"^[\w.-]{1,200}$")
    """Name of the bundle and the store."""
    model: SetModelConfig
    hook: str = "masked_mean"
    """Which vector of the model, by a name that the adapter knows."""
    dataset: SetDatasetConfig
    sae: SetSaeConfig
    checks: SetChecksConfig = SetChecksConfig()
    collect: SetCollectConfig = SetCollectConfig()
    outputs: SetOutputsConfig = SetOutputsConfig()
    families: Literal["by_name"] | tuple[FamilyConfig, ...] = ()
    """Tokens that are levels of one thing; `by_name`: `name_LEVEL` is a level, any other token a family of its own."""
    groups: tuple[GroupConfig, ...] = ()
    """Which group is primary, and files with attributes; the others become groups all the same."""
    split_seed: NonNegativeInt = 0
    """Seed of the division of units into `explain` and `heldout`."""
    search_floor: SearchFloor = SearchFloor()
    """Features too rare or too weak to be trusted."""
    store: StoreConfig = StoreConfig()
    """How the bundle becomes a store."""
    work: Path | None = None
    """Folder for artifacts; default `<name>.work` beside the config file."""
    execution: Execution = Execution()
    """How to run; the command line goes before it."""

    @field_validator("families")
    @classmethod
    def _no_positions(cls, families: Any) -> Any:
        for family in families if isinstance(families, tuple) else ():
            if isinstance(family, PositionFamily):
                raise ValueError(f"{family.name!r} is a family of positions, which a set does not have")
        return families

    @classmethod
    def load(cls, path: Path) -> "SetRunConfig":
        """Read a config and make its paths absolute.

        Raises:
            BadInput: the file is missing, is not YAML, or does not fit; the message names the file and field.
        """
        return cls.from_yaml(path).resolved(path.resolve().parent)

    def resolved(self, base: Path) -> "SetRunConfig":
        """The same run with absolute paths; relative ones are read from `base`."""
        groups = tuple(
            group.model_copy(update={"attributes": absolute(base, group.attributes)})
            if group.attributes
            else group
            for group in self.groups
        )
        return self.model_copy(
            update={
                "model": self.model.resolved(base),
                "dataset": self.dataset.resolved(base),
                "sae": self.sae.resolved(base),
                "groups": groups,
                "work": base / (self.work or f"{self.name}.work"),
                "store": self.store.model_copy(
                    update={"out": base / (self.store.out or f"{self.name}-store")}
                ),
            }
        )


def absolute(base: Path, path: Path) -> Path:
    """A path of a config file whose folder is `base`."""
    return (base / path.expanduser()).resolve()


def load_run(path: Path) -> RunConfig | SetRunConfig:
    """Read a run of either kind, told apart by the top-level `kind`.

    Raises:
        BadInput: no such kind, or what `RunConfig.load` and `SetRunConfig.load` raise.
    """
    kind = kind_of(path)
    if kind == "set":
        return SetRunConfig.load(path)
    if kind != "sequence":
        raise BadInput(f"{path}: kind {kind!r} is not known; a run is of kind sequence (the default) or set")
    return RunConfig.load(path)


def kind_of(path: Path) -> object:
    """What a config file says it is; a file that cannot be read is left to the reader of the default kind."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return "sequence"
    return content.get("kind", "sequence") if isinstance(content, dict) else "sequence"
