"""What a run is told. What changes a result is in its fingerprint; how fast and how dear it may be is not."""

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.autointerp.selection import Selection
from saeinterp_mcp.asking.budget import Budget
from saeinterp_mcp.frozen import Frozen

ExplainerName = Literal["max_activating", "contrastive", "output_side", "search"]
Method = Literal["detection", "fuzzing", "simulation", "embedding", "surprisal", "intruder", "rule"]


class ExplainConfig(Frozen):
    """How features are explained."""

    explainer: ExplainerName = "max_activating"
    model: str | None = None
    """Client that explains, `provider:model`; None for the explainer that needs none."""
    statistics: bool | None = None
    """Whether the explainer is told which tokens go with the feature, beside its excerpts; None: only in sets."""
    vocabulary: Path | None = None
    """Words that the search label may use, one a line; any when not given."""
    seed: NonNegativeInt = 0
    """Of the excerpts shown."""
    think_tokens: NonNegativeInt = 0
    """Room in each answer for a model that thinks before it answers."""

    @model_validator(mode="after")
    def _has_a_model(self) -> "ExplainConfig":
        if (self.explainer == "search") == (self.model is not None):
            need = "asks no model; leave --model out" if self.model else "needs --model, e.g. anthropic:MODEL"
            raise ValueError(f"explainer {self.explainer} {need}")
        if self.statistics is not None and self.explainer not in ("max_activating", "contrastive"):
            raise ValueError("statistics are for the explainers max_activating and contrastive")
        if self.vocabulary is not None and self.explainer != "search":
            raise ValueError("a vocabulary is for the search label")
        return self


class ScoreConfig(Frozen):
    """How labels are tested."""

    methods: tuple[Method, ...] = Field(min_length=1)
    judge: str | None = None
    """Client that judges; None where no method needs one."""
    text_model: str | None = None
    """`local:DIR` of the model whose losses surprisal reads."""
    n_trials: PositiveInt = Field(default=40, le=200)
    """Of each label and method."""
    n_controls: NonNegativeInt = 0
    """Features whose trials are also judged with the label of another feature: what a wrong label gets."""
    seed: NonNegativeInt = 0
    """Of the trials."""
    think_tokens: NonNegativeInt = 0
    """Room in each answer for a judge that thinks before it answers."""

    @model_validator(mode="after")
    def _methods_fit(self) -> "ScoreConfig":
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("a method is named twice")
        if ("surprisal" in self.methods) != (self.text_model is not None):
            raise ValueError("surprisal goes with text_model, local:DIR: the model whose losses it reads")
        return self


class LabelChoice(Frozen):
    """Which labels of the store are scored, where the run explains nothing."""

    status: Literal["draft", "supported", "unclear", "refuted"] | None = None
    author: str | None = None
    """Author, or kind of author: human, agent, import."""
    source: str | None = None
    """As labels have it, e.g. `explain:0123456789ab`."""


class RunConfig(Frozen):
    """A run."""

    explain: ExplainConfig | None = None
    score: ScoreConfig | None = None
    selection: Selection
    labels: LabelChoice = LabelChoice()

    @model_validator(mode="after")
    def _does_something(self) -> "RunConfig":
        if self.explain is None and self.score is None:
            raise ValueError("neither explain nor score: nothing to do")
        return self


class Execution(Frozen):
    """How a run is carried out."""

    concurrency: PositiveInt = Field(default=8, le=256)
    """Requests under way at once, and at most so many asked again after each kill."""
    batch: bool = False
    """Through the providers' message batches: half the price, within a day."""
    never_repeat: bool = False
    """Leave out what was asked and not answered when the run was killed, instead of asking again."""
    poll_seconds: PositiveFloat = 30.0
    """Between two looks at a batch, at first."""
    budget: Budget = Budget()
    prices: Path | None = None
    """A file of prices over the shipped table."""
