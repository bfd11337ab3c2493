"""What similarities are compared with: examples of random features, drawn the same by the stages and the server."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pydantic import NonNegativeInt, PositiveInt

from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.patterns.coherence import CoherenceBaseline
from saeinterp_mcp.patterns.matching import MatchBaseline
from saeinterp_mcp.patterns.records import CORE, Vectors
from saeinterp_mcp.validation.claims import Method
from saeinterp_mcp.validation.folder import Validation
from saeinterp_mcp.validation.groups import GroupReader, reader_of

SIDECAR_KEY = "baseline"
"""Where the sidecar of ex_act_pattern_matching holds BaselineSettings."""


class BaselineSettings(Frozen):
    """All that decides a baseline, beside the examples themselves."""

    n_random_features: PositiveInt
    per_quantile: PositiveInt
    """Examples of each quantile that stand for a feature, random or not."""
    percentile: float
    core: PositiveInt = CORE
    seed: NonNegativeInt = 0
    chunk_method: Method = "phrase"
    """How explanations are cut into phrases."""
    phrase_features: tuple[int, ...] = ()
    """Whose phrases the vectors `phrases` are of."""


class Baselines(NamedTuple):
    """What the examples and phrases of any feature are compared with."""

    settings: BaselineSettings
    coherence: CoherenceBaseline
    match: MatchBaseline


def coherence_baseline(reader: GroupReader, settings: BaselineSettings) -> CoherenceBaseline:
    """The coherence of random windows."""
    background = reader.background(settings.n_random_features, settings.per_quantile, settings.seed)
    return CoherenceBaseline(background, reader.is_set, settings.core, settings.seed)


def baselines_of(
    reader: GroupReader, settings: BaselineSettings, phrases: Vectors | None = None
) -> Baselines:
    """Both baselines, of one draw of random features.

    Args:
        reader: examples of all features.
        settings: how many features, of how many examples.
        phrases: directions of phrases of the features `settings.phrase_features`; None without an embedder.
    """
    background = reader.background(settings.n_random_features, settings.per_quantile, settings.seed)
    others: tuple[Vectors, Sequence[int]] | None = None
    if phrases is not None and len(phrases):
        others = (phrases, settings.phrase_features)
    return Baselines(
        settings,
        CoherenceBaseline(background, reader.is_set, settings.core, settings.seed),
        MatchBaseline(background, reader.is_set, settings.core, others),
    )


def settings_of(folder: Validation) -> BaselineSettings:
    """How the baselines of a published folder were drawn.

    Raises:
        NotInStore: its explanations were not set against activations.
    """
    found = folder.sidecar("ex_act_pattern_matching")["config_used"][SIDECAR_KEY]
    return BaselineSettings.model_validate(found)


class Published(NamedTuple):
    """A published folder, ready to answer about any feature."""

    reader: GroupReader
    baselines: Baselines


def published_baselines(folder: Validation) -> Published:
    """The reader of a published folder and the baselines that its tables were made with; kept for the next call.

    Raises:
        NotInStore: it holds no examples, or no explanations were set against them.
    """
    stages = folder.manifest.stages
    return _published(folder.path, tuple(sorted(stages.items())))


@lru_cache(maxsize=2)
def _published(path: Path, stages: tuple[tuple[str, str], ...]) -> Published:
    folder = Validation(path)
    reader = reader_of(folder)
    return Published(reader, baselines_of(reader, settings_of(folder), folder.vectors("phrases")))
