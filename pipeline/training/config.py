"""How an SAE is trained: the section `sae.train` of a run, and what follows from it and the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen

Architecture = Literal["standard", "topk", "batchtopk", "jumprelu", "matryoshka"]

BY_COUNT: tuple[Architecture, ...] = ("topk", "batchtopk", "matryoshka")
"""Architectures that are told how many features fire."""
ONLY_FOR: dict[str, tuple[Architecture, ...]] = {
    "k": BY_COUNT,
    "l1_coeff": ("standard",),
    "l0_coeff": ("jumprelu",),
    "sparsity_warm_up_steps": ("standard", "jumprelu"),
    "dead_feature_loss": ("jumprelu", *BY_COUNT),
    "matryoshka_widths": ("matryoshka",),
}
"""Settings that mean something for some architectures alone."""
SPARSE_BY: dict[str, str] = {"standard": "l1_coeff", "jumprelu": "l0_coeff", **dict.fromkeys(BY_COUNT, "k")}

DEFAULT_TOKENS = 2_000_000
DEFAULT_K = 32
DEFAULT_L1 = 0.01
DEFAULT_L0 = 0.003
DEFAULT_LOSS = {"jumprelu": 3e-6, **dict.fromkeys(BY_COUNT, 1.0)}


class TrainSaeConfig(Frozen):
    """What decides the SAE, apart from the vectors it is trained on.

    Errors are counted per dimension (mean squared error), on inputs scaled as `normalize_activations` says, so
    that coefficients mean the same for a narrow hook and a wide one. SAELens' own coefficients are these times
    the width of the hook.
    """

    architecture: Architecture = "batchtopk"
    """`standard`: ReLU and an L1 penalty; `topk`: k features at each position; `batchtopk`: k a position on
    average; `jumprelu`: a learned threshold for each feature; `matryoshka`: batchtopk whose first features must
    do alone, so that general ones are not split. Default batchtopk, or the one that `l1_coeff`, `l0_coeff` or
    `matryoshka_widths` belongs to where one of these is given."""
    expansion_factor: PositiveInt = 8
    """Features of the SAE for each dimension of its input."""
    k: PositiveInt | None = None
    """topk, batchtopk, matryoshka: features that fire at a position; default 32. Near the number of things
    that are true of an input: fewer split them, more add noise."""
    l1_coeff: NonNegativeFloat | None = None
    """standard: weight of the summed activations (times their decoder's norm) against the mean squared error;
    default 0.01. Higher is sparser. With `normalize_activations: none` it is the storage guide's
    `--l1-coeff`."""
    l0_coeff: NonNegativeFloat | None = None
    """jumprelu: weight of the number of features that fire; default 0.003. Higher is sparser."""
    matryoshka_widths: tuple[PositiveInt, ...] | None = None
    """matryoshka: numbers of first features that reconstruct the input alone, increasing; all features come
    last by themselves. Default a sixteenth and a quarter of them."""
    epochs: PositiveFloat | None = None
    """How often every training vector is seen. Give this or `tokens`."""
    tokens: PositiveInt | None = None
    """How many vectors are seen, repeats counted; default 2,000,000 where there are no `epochs`."""
    batch_size: PositiveInt = 4096
    """Vectors of one step."""
    lr: PositiveFloat = 1e-3
    """Learning rate of Adam."""
    lr_warm_up_steps: NonNegativeInt | None = None
    """Steps over which the learning rate rises from 0; default a twentieth of all, 1,000 at most."""
    lr_decay_steps: NonNegativeInt | None = None
    """Last steps, over which it falls to 0; default a fifth of all."""
    sparsity_warm_up_steps: NonNegativeInt | None = None
    """standard, jumprelu: steps over which the penalty rises from 0; default a tenth of all."""
    dead_feature_window: PositiveInt | None = None
    """Steps without firing after which a feature counts as dead; default a tenth of all, from 50 to 1,000."""
    dead_feature_loss: NonNegativeFloat | None = None
    """What revives dead features, 0 for nothing. topk, batchtopk, matryoshka: weight of a loss in which dead
    features alone reconstruct what the others left (default 1). jumprelu: weight of a loss that pulls their
    inputs up to the threshold (default 3e-6). SAELens has nothing for standard."""
    normalize_activations: Literal["expected_average_only_in", "none"] = "expected_average_only_in"
    """`expected_average_only_in`: inputs are multiplied with one number that makes their mean norm the root of
    their width; it is folded into the weights at the end. SAELens' other ways work at run time: a feature's
    effect would depend on the input."""
    decoder_bias: Literal["mean", "zero"] = "mean"
    """What the decoder's bias starts from. A hook with a large common offset keeps features busy with it if it
    starts from 0."""
    held_out: float = Field(default=0.05, gt=0, lt=1)
    """Share of the units (documents, builds) whose vectors are kept out of the training, for the report."""
    seed: NonNegativeInt = 0
    """Decides the first weights, the order of the vectors and which of them are held out."""
    checkpoint_seconds: PositiveFloat = Field(default=60.0, exclude=True)
    """How much work a kill may cost. It changes no result."""

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_settings(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.get("architecture") is not None:
            return value
        named = [
            ONLY_FOR[name][0] for name in ("l1_coeff", "l0_coeff", "matryoshka_widths") if value.get(name)
        ]
        rest = {name: given for name, given in value.items() if name != "architecture"}
        return {**rest, "architecture": named[0]} if named else rest

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        for name, architectures in ONLY_FOR.items():
            if getattr(self, name) and self.architecture not in architectures:
                raise ValueError(
                    f"{name} is for {', '.join(architectures)}; how sparse {self.architecture} is,"
                    f" {SPARSE_BY[self.architecture]} says"
                    if name in SPARSE_BY.values()
                    else f"{name} is for {', '.join(architectures)}, not for {self.architecture}"
                )
        if self.epochs is not None and self.tokens is not None:
            raise ValueError(
                "give epochs (how often each vector is seen) or tokens (how many in all), not both"
            )
        widths = self.matryoshka_widths or ()
        if list(widths) != sorted(set(widths)):
            raise ValueError("matryoshka_widths must increase, such as [64, 256]")
        return self


@dataclass(frozen=True)
class Plan:
    """A config with every default worked out for the vectors at hand."""

    config: TrainSaeConfig
    d_in: int
    n_features: int
    n_steps: int
    k: int
    widths: list[int]
    lr_warm_up_steps: int
    lr_decay_steps: int
    sparsity_warm_up_steps: int
    dead_feature_window: int

    @property
    def n_vectors(self) -> int:
        """Vectors seen in all, repeats counted."""
        return self.n_steps * self.config.batch_size

    @property
    def dead_feature_loss(self) -> float:
        """Weight of the loss that revives dead features, 0 for none."""
        given = self.config.dead_feature_loss
        return given if given is not None else DEFAULT_LOSS.get(self.config.architecture, 0.0)


def make_plan(config: TrainSaeConfig, d_in: int, n_train: int) -> Plan:
    """What a config means for `n_train` vectors of `d_in` dimensions.

    Raises:
        BadInput: it cannot be done with as many, or the numbers contradict each other.
    """
    if config.batch_size > n_train:
        raise BadInput(
            f"batch_size {config.batch_size:,} is more than the {n_train:,} vectors to train on;"
            " give a smaller batch_size (--sae-batch-size), or more data"
        )
    seen = config.epochs * n_train if config.epochs is not None else config.tokens or DEFAULT_TOKENS
    n_steps = max(1, round(seen / config.batch_size))
    n_features = d_in * config.expansion_factor
    k = config.k if config.k is not None else DEFAULT_K
    if config.architecture in BY_COUNT and k >= n_features:
        raise BadInput(
            f"k {k} is not below the {n_features} features (expansion_factor times width); lower it"
        )
    warm_up = _steps(config.lr_warm_up_steps, min(1000, n_steps // 20))
    decay = _steps(config.lr_decay_steps, n_steps // 5)
    if warm_up + decay > n_steps:
        raise BadInput(
            f"lr_warm_up_steps {warm_up} and lr_decay_steps {decay} are more than the {n_steps} steps there are"
        )
    return Plan(
        config=config,
        d_in=d_in,
        n_features=n_features,
        n_steps=n_steps,
        k=k,
        widths=_widths(config, n_features),
        lr_warm_up_steps=warm_up,
        lr_decay_steps=decay,
        sparsity_warm_up_steps=_steps(config.sparsity_warm_up_steps, n_steps // 10),
        dead_feature_window=_steps(config.dead_feature_window, min(1000, max(50, n_steps // 10))),
    )


def _steps(given: int | None, default: int) -> int:
    return default if given is None else given


def _widths(config: TrainSaeConfig, n_features: int) -> list[int]:
    """The nested widths, all features last."""
    given = config.matryoshka_widths
    widths = list(given) if given is not None else [max(1, n_features // 16), max(2, n_features // 4)]
    if widths and widths[-1] > n_features:
        raise BadInput(f"matryoshka_widths: {widths[-1]} is more than the {n_features} features there are")
    return [*(width for width in widths if width < n_features), n_features]
