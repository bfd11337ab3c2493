"""What a step of the pipeline is, and what it reports at its end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import Field

from pipeline.config import Execution
from saeinterp_mcp.frozen import Frozen

Config = TypeVar("Config", bound=Frozen)


class Progress(Protocol):
    """What a stage calls while it works: how much is done of how much, in whatever it counts."""

    def __call__(self, done: int, total: int) -> None:
        """Say that `done` of `total` is behind us."""
        ...


class RunSections(Protocol):
    """What a run is told: where it works and how, and one attribute for each section that its stages see."""

    @property
    def work(self) -> Path | None:
        """The folder of the artifacts; set by the time stages run."""
        ...

    @property
    def execution(self) -> Execution:
        """Device, threads, workers."""
        ...


class Summary(Frozen):
    """What a stage did. It is part of its artifact, so it holds no times and nothing about the machine."""

    n_in: int
    """What went in, in the stage's own unit (documents, tokens, checks)."""
    n_kept: int
    """How many of them are in the artifact."""
    dropped: dict[str, int] = Field(default_factory=dict)
    """Reason to number dropped; kept and dropped add up to what went in."""
    notes: tuple[str, ...] = ()
    """What a reader should know: warnings, counts in other units."""


def no_external_inputs(config: Any) -> dict[str, Path]:
    """For a stage that reads only earlier artifacts."""
    return {}


@dataclass(frozen=True)
class Stage(Generic[Config]):
    """A step of the pipeline: a name, what it reads, and a function that writes one artifact.

    Its fingerprint is the hash of its name, its config, the fingerprints of its inputs, the content of its
    external inputs, and its code; a stage whose fingerprint is done is skipped.
    """

    name: str
    """Also the name of its artifact's folder."""
    config: type[Config]
    """What it may know of the run: a model whose fields are named as the sections of `RunConfig` that it
    sees."""
    run: Callable[[Config, Mapping[str, Path], Path, Progress, Execution], Summary]
    """`run(config, inputs, out, progress, execution)`.

    `inputs` maps the name of each input stage to its finished folder; `out` is the folder to write into. When
    a run of the same fingerprint was killed, `out` holds what it left, and the stage may go on from there:
    each file it wants to keep must be written whole (temporary name, then rename). The bytes it leaves may
    not depend on that.
    """
    inputs: tuple[str, ...] = ()
    """Names of the earlier stages it reads."""
    modules: tuple[str, ...] = ()
    """Every module of ours whose source decides the result; the fingerprint hashes their files."""
    external: Callable[[Config], dict[str, Path]] = field(default=no_external_inputs)
    """Name (`model/config.json`) to file, for all that is read from outside the run; their content is hashed,
    their paths are not. Names with the same first part are hashed together where they are many."""

    def config_of(self, run: RunSections) -> Config:
        """The sections of the run's config that this stage sees."""
        return self.config(**{name: getattr(run, name) for name in self.config.model_fields})
