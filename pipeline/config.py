"""What a run is told: a frozen section for each stage, and apart from them how to execute."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
)

from pipeline.source_config import DatasetConfig, ModelConfig, SaeConfig
from saeinterp_mcp.frozen import Frozen, FrozenFile

FAMILY_NAME = r"^[A-Za-z_][A-Za-z0-9_-]{0,199}$"
"""Families are named in questions, so their names are words."""


class TokenizeConfig(Frozen):
    """How documents become samples. What the SAE's metadata says need not be given here."""

    context_size: int | None = Field(default=None, ge=2)
    """Longest sample in tokens, BOS included; where the SAE's metadata does not say."""
    prepend_bos: bool | None = None
    """Whether every sample begins with BOS; where the SAE's metadata does not say."""
    override: bool = False
    """Let what is given here (and `sae.hook_name`) contradict the SAE's metadata."""
    max_documents: PositiveInt | None = None
    """Read no more documents than this; the others are counted as dropped."""
    max_tokens: PositiveInt | None = None
    """Stop before the sample that would pass this many tokens, BOS not counted."""
    shard_tokens: PositiveInt = 131_072
    """Tokens in a shard, the unit of work that a killed collection does not repeat; bounds its memory."""


class ChecksConfig(Frozen):
    """The load checks: does this SAE belong to this model, hook and text?"""

    n_tokens: PositiveInt = 16_384
    """Tokens of the seeded sample that the checks run on."""
    seed: NonNegativeInt = 0
    """Seed of the sample and of the shuffled decoder."""
    expected_l0: PositiveFloat | None = None
    """Mean number of features firing at a position; default what the SAE's metadata states (`l0` or `k`)."""
    l0_tolerance: PositiveFloat = 0.35
    """How far L0 may be from that, as a fraction of it."""
    min_explained_variance: float = 0.5
    """Smallest share of the activations' variance that the reconstruction must explain. A wrong layer, bias or
    threshold convention shows here; a very sparse SAE may honestly be lower."""
    min_loss_recovered: float = 0.5
    """Smallest share of the loss between mean ablation and the clean model that the reconstruction wins
    back."""
    max_dead_fraction: float = Field(default=0.9, ge=0, le=1)
    """Largest share of features that never fire on the sample."""
    allow: tuple[str, ...] = ()
    """Names of checks whose failure is recorded but does not stop the build."""


class CollectConfig(Frozen):
    """How activations are collected."""

    batch_tokens: PositiveInt = 8192
    """Token slots of a batch, padding included. Another value may move activations at the last float
    digit."""
    min_activation: NonNegativeFloat = 0.0
    """Activations at or below this are not stored, and counted; above 0 the store is no longer complete."""


class OutputsConfig(Frozen):
    """The decoder's direct effect on the output, and how it is checked against ablation in the running
    model."""

    n_features: PositiveInt = 20
    """Features ablated."""
    n_samples: PositiveInt = 64
    """Samples that the features are chosen on."""
    n_samples_per_feature: PositiveInt = 8
    """Samples on which one feature is ablated: those where it fires most."""
    min_firing: PositiveInt = 10
    """Fewest firings on those samples for a feature to be chosen."""
    seed: NonNegativeInt = 0
    """Seed of the samples, the features and the control directions."""


class GroupConfig(Frozen):
    """A group of the dataset, as it appears in the store."""

    name: str
    primary: bool = False
    """The group by which answers look for confounding."""
    attributes: Path | None = Field(default=None, exclude=True)
    """A Parquet file with one row for each value: a column named as the group, then attributes."""


class ExplicitFamily(Frozen):
    """A family whose tokens are written out."""

    name: str = Field(pattern=FAMILY_NAME)
    encoding: Literal["exclusive", "cumulative"] = "exclusive"
    levels: dict[str, PositiveInt] = Field(min_length=1)
    """Token to level."""


class MatchFamily(Frozen):
    """A family of all tokens that a regular expression matches as a whole; written out when the bundle is
    made."""

    name: str
    encoding: Literal["exclusive", "cumulative"] = "exclusive"
    match: str
    """Python regular expression; it must match the whole token."""
    level: PositiveInt | Literal["length", "number"] | dict[str, PositiveInt] = 1
    """A constant; or of the capture `(?P<level>...)`: its `length`, the `number` it spells, or a mapping from
    its text (a text that is not in the mapping makes the token no member)."""
    plus: NonNegativeInt = 0
    """Added to the level: where the last space of an indentation belongs to the next token, 1."""
    max_level: PositiveInt | None = None
    """Higher levels become this one."""


class PositionFamily(Frozen):
    """A family of positions, computed from the text of the sample up to and with the position."""

    name: str = Field(pattern=FAMILY_NAME)
    position_family: Literal["brackets_depth"]
    """`brackets_depth`: how many of `(`, `[` and `{` are open after the token, counted from the sample's
    start."""
    max_level: PositiveInt = 8
    """Deeper positions get this level."""


def _family_kind(value: object) -> str | None:
    """Which kind of family a mapping describes, by the field that only that kind has."""
    fields = (
        value.keys()
        if isinstance(value, dict)
        else type(value).model_fields
        if isinstance(value, Frozen)
        else ()
    )
    return next((kind for kind in ("levels", "match", "position_family") if kind in fields), None)


FamilyConfig = Annotated[
    Annotated[ExplicitFamily, Tag("levels")]
    | Annotated[MatchFamily, Tag("match")]
    | Annotated[PositionFamily, Tag("position_family")],
    Discriminator(
        _family_kind,
        custom_error_type="family_kind",
        custom_error_message="a family has levels, match or position_family",
    ),
]


class SearchFloor(Frozen):
    """Features under these are flagged and left out of default searches."""

    firing_rate: float | None = Field(default=None, ge=0, le=1)
    """Firing rate over all counted positions."""
    max: NonNegativeFloat | None = None
    """Largest activation."""


class StoreConfig(Frozen):
    """How a bundle becomes a store."""

    out: Path | None = Field(default=None, exclude=True)
    """Folder of the store, which must not exist; a relative one is read from the folder of the config file.
    Default: `NAME-store` beside the config file."""
    negatives: Literal["drop", "abs"] | None = None
    """What to do with negative activations; without it they are refused."""
    seed: NonNegativeInt = 0
    """Seed of the examples and of the random pairs."""


class Execution(Frozen):
    """How to run, which never changes a result by more than float rounding; not part of any fingerprint."""

    device: str = "auto"
    """`auto` takes a GPU if there is one; else `cpu`, `cuda`, `cuda:1`, `mps`."""
    threads: PositiveInt = 1
    """Torch threads. One is the fastest on a shared machine."""
    workers: PositiveInt = 1
    """Worker processes, for the stages that use them."""
    max_memory_gb: PositiveFloat | None = None
    """Memory that a stage with a choice should stay under."""


class RunConfig(FrozenFile):
    """A whole run, read from a YAML file."""

    kind: Literal["sequence"] = "sequence"
    """What the samples are; a run over sets is a `SetRunConfig`."""
    name: str = Field(pattern=r"^[\w.-]{1,200}$")
    """Name of the bundle and the store."""
    model: ModelConfig
    sae: SaeConfig
    dataset: DatasetConfig
    tokenize: TokenizeConfig = TokenizeConfig()
    checks: ChecksConfig = ChecksConfig()
    collect: CollectConfig = CollectConfig()
    outputs: OutputsConfig = OutputsConfig()
    families: tuple[FamilyConfig, ...] = ()
    """Tokens that are levels of one thing; a token is in one family at most."""
    groups: tuple[GroupConfig, ...] = ()
    """Which of the dataset's groups is primary, and files with attributes; the others become groups all the
    same."""
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

    @classmethod
    def load(cls, path: Path) -> "RunConfig":
        """Read a config and make its paths absolute.

        Raises:
            BadInput: the file is missing, is not YAML, or does not fit; the message names the file and field.
        """
        run = cls.from_yaml(path)
        base = path.resolve().parent
        groups = tuple(
            group.model_copy(update={"attributes": base / group.attributes}) if group.attributes else group
            for group in run.groups
        )
        return run.model_copy(
            update={
                "model": run.model.resolved(base),
                "sae": run.sae.resolved(base),
                "dataset": run.dataset.resolved(base),
                "groups": groups,
                "work": base / (run.work or f"{run.name}.work"),
                "store": run.store.model_copy(update={"out": base / (run.store.out or f"{run.name}-store")}),
            }
        )
