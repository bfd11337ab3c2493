"""What a folder of explanations and scores holds, whatever wrote it: Explanation, ScoreFile, Problem, Results."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

Status = Literal["ok", "unparsed", "empty", "runaway"]
Method = Literal["fuzz", "detection", "simulation", "embedding", "surprisal", "intruder", "example_embedding"]
RUNAWAY = 2_000
"""Characters from which an explanation is one that did not end. (The longest real one of SAE_vis had 4,688.)"""
LEAK = (
    "delphi draws the examples of its scorers from the same lists as those of its explainers, so 10 to 20 of 50 may "
    "have been shown to the explainer: the score is optimistic, and no held-out test"
)


class Explanation(NamedTuple):
    """What an explainer said about a feature."""

    feature: int
    text: str
    """Decoded; as it was written, also where it is no explanation."""
    status: Status
    path: Path
    sha256: str
    """Of the file."""
    plain: bool = False
    """Whether the file is no JSON, and was taken as plain text."""


class Answer(NamedTuple):
    """One trial of fuzz, detection, embedding, surprisal or intruder."""

    activating: bool
    """Whether the feature fires in the text. Older files: `ground_truth`. Embedding and surprisal do not say it: see
    `score_files.fires`. Of intruder always True: one of several texts was to be found."""
    prediction: bool | None
    """None: the scorer's answer could not be read. Of embedding and surprisal always None; of intruder whether it
    found the one."""
    correct: bool | None
    """As the file says; None where the answer could not be read."""
    distance: float
    """As the file says: the quantile (0 the strongest), or a negative number; of older files quantile + 1. NaN where
    the file says null: a neighbour of unknown likeness."""
    value: float | None = None
    """What ranks: `probability`, `similarity`, or the gain in cross entropy for each token; of example_embedding the
    difference."""
    n_choices: int = 2
    """How many texts it was chosen among (intruder): chance is 1 in as many."""


class Simulated(NamedTuple):
    """One group of a simulation: quantile `distance` - 1, or all of it (0)."""

    distance: int
    correlation: float | None
    """None: the file says nan."""
    n: int
    """Tokens that were compared."""


class ScoreFile(NamedTuple):
    """One scorer's results for one feature."""

    feature: int
    method: Method
    folder: str
    """Name of its folder under `scores/`."""
    answers: tuple[Answer, ...]
    simulated: tuple[Simulated, ...]
    generation: Literal["delphi", "article_version"]
    """Which of delphi's two forms the file has."""
    path: Path
    sha256: str


class Problem(NamedTuple):
    """A file that was passed over, and why."""

    path: Path
    kind: Literal["truncated", "foreign", "duplicate", "orphan", "unnamed", "empty"]
    """orphan: a score without an explanation. unnamed: not `<hookpoint>_latent<number>.txt` of the chosen hookpoint."""
    reason: str


class Results(NamedTuple):
    """An opened folder. Files are read when iterated over; each iterator may be asked for again."""

    path: Path
    hookpoint: str | None
    sae_id: str | None
    """As `run_config.json` says, in our spelling; None without one."""
    explainer: str
    """The model that explained."""
    scorer: str | None
    """The model that scored; None where there are no scores."""
    method: str
    """How examples for the explainer were chosen (`quantiles`)."""
    files: dict[str, Path]
    """Every file that is read, by its name in the folder: what fingerprints are taken of."""
    explanations: Callable[[list[Problem]], Iterator[Explanation]]
    """Ascending by feature. Bad files are put into the list."""
    scores: Callable[[list[Problem]], Iterator[ScoreFile]]
    """Ascending by folder (in the order of their methods) and feature; a (method, feature) comes once."""
    notes: tuple[str, ...] = ()
    """What was decided on opening it, where a reader may think otherwise."""
