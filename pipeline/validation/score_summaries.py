"""`scores.json` of SAE_vis: what it would have written of a file, what we write, and those that are given to us."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, variance
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from pipeline.fingerprint import write_whole
from pipeline.importers.results.records import ScoreFile
from pipeline.validation.score_statistics import Statistics, ranking_of, wilson
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import file_sha256
from saeinterp_mcp.frozen import Frozen, describe_validation
from saeinterp_mcp.validation.names import sae_id

Summary = dict[str, Any]
"""average_score, total_examples, failure_count, success_count, variance; ours has columns of `scores` beside them."""
MADE_BY = "saeinterp"
NO_FILE: Summary = {
    "average_score": None,
    "total_examples": 0,
    "failure_count": 0,
    "success_count": 0,
    "variance": None,
}
PLAIN = (
    "score is the plain accuracy that SAE_vis kept: how many answers were to texts of either class is not known, so it "
    "cannot be balanced"
)
MIXED = "SAE_vis kept the mean of the overall correlation and those of the quantiles, and neither of them"


class Given(NamedTuple):
    """A `scores.json` that was made before."""

    path: Path
    data_source: str
    llm_scorer: str | None
    sae_id: str | None
    ours: bool
    """Whether we made it, in right mode: its entries have all columns."""
    scores: dict[int, dict[str, Summary]]
    """Feature to method to its entry."""
    sha256: str


class _Metadata(Frozen, extra="ignore"):
    data_source: str
    llm_scorer: str | None = None
    sae_id: str | None = None
    made_by: str | None = None
    compat: bool = True


class _Entry(Frozen, extra="ignore"):
    average_score: float | None
    total_examples: int
    failure_count: int


class _File(Frozen, extra="ignore"):
    metadata: _Metadata
    latent_scores: dict[str, dict[str, dict[str, Any]]]


def as_sae_vis(file: ScoreFile) -> Summary:
    """The numbers of SAE_vis, its errors too (`reference/validation-pipeline.md` 2.2).

    Plain accuracy; AUROC with every distance from 0 up taken for a text that fires; a simulation as the mean of its
    quantiles and of the group over all of them.
    """
    if file.method == "simulation":
        values = [g.correlation for g in file.simulated if g.correlation is not None]
        spread = variance(values) if len(values) > 1 else None
        return _summary(fmean(values) if values else None, len(file.simulated), len(values), spread)
    if file.method in ("embedding", "surprisal"):
        read = [
            a._replace(activating=a.distance >= 0)
            for a in file.answers
            if a.value is not None and not math.isnan(a.distance)
        ]
        area = ranking_of(read).value
        return _summary(None if math.isnan(area) else area, len(file.answers), len(read), None)
    right = [a.correct for a in file.answers if a.correct is not None]
    return _summary(fmean(right) if right else None, len(file.answers), len(right), None)


def as_ours(file: ScoreFile, statistics: Statistics) -> Summary:
    """The same keys, `average_score` the right score, and every column that is known."""
    n_groups = len(file.simulated) if file.method == "simulation" else statistics.n + statistics.n_failed
    known = {
        name: list(value) if name == "quantiles" else value
        for name, value in statistics._asdict().items()
        if value is not None and value != ()
    }
    return {
        **_summary(statistics.score, n_groups, n_groups - statistics.n_failed, None),
        **{name: value for name, value in known.items() if name != "score"},
    }


def compat_statistics(statistics: Statistics, summary: Summary) -> Statistics:
    """The row whose score is what SAE_vis would have said; an interval only where it is of that very number."""
    score = summary["average_score"]
    if score is None:
        return statistics._replace(
            score=None, low=None, high=None, reason=statistics.reason or "no valid item"
        )
    low, high = statistics.low, statistics.high
    if statistics.accuracy is not None and summary["success_count"]:
        share = wilson(round(score * summary["success_count"]), summary["success_count"])
        low, high = share.low, share.high
    elif score != statistics.score:
        low = high = None
    return statistics._replace(score=score, low=low, high=high, reason=None)


def document(
    data_source: str,
    sae_id: str,
    llm_explainer: str,
    llm_scorer: str | None,
    methods: Sequence[str],
    compat: bool,
    scores: Mapping[int, Mapping[str, Summary]],
) -> dict[str, Any]:
    """A whole `scores.json`. A method without a file has nulls, as SAE_vis had them."""
    found = sorted({method for of_feature in scores.values() for method in of_feature})
    return {
        "metadata": {
            "compat": compat,
            "config_used": {"scoring_methods": list(methods)},
            "data_source": data_source,
            "llm_explainer": llm_explainer,
            "llm_scorer": llm_scorer,
            "made_by": MADE_BY,
            "sae_id": sae_id,
            "scoring_methods": found,
        },
        "latent_scores": {
            str(feature): {method: of_feature.get(method, NO_FILE) for method in found}
            for feature, of_feature in scores.items()
        },
    }


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Write a `scores.json` whole: a line a feature, ids in the order of strings as SAE_vis had them."""
    lines = [
        f"{json.dumps(feature)}: {json.dumps(entry, sort_keys=True, ensure_ascii=False, allow_nan=False)}"
        for feature, entry in sorted(content["latent_scores"].items())
    ]
    metadata = json.dumps(content["metadata"], sort_keys=True, ensure_ascii=False)
    inside = ",\n".join(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, f'{{"latent_scores": {{\n{inside}\n}},\n"metadata": {metadata}}}\n')


def read_given(path: Path) -> Given:
    """A `scores.json`, checked.

    Raises:
        BadInput: it is missing, no JSON, or of another shape.
    """
    try:
        read = _File.model_validate(json.loads(path.read_text(encoding="utf-8")))
        scores = {int(feature): methods for feature, methods in read.latent_scores.items()}
        for methods in scores.values():
            for entry in methods.values():
                _Entry.model_validate(entry)
    except ValidationError as error:
        raise BadInput(f"{path} is no scores.json: {describe_validation(error)[:400]}") from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"{path} is no scores.json: {error}") from error
    if any(not 0 <= feature < 2**32 for feature in scores):
        raise BadInput(f"{path} is no scores.json: a feature's number is below 0 or above {2**32 - 1}")
    about = read.metadata
    return Given(
        path=path,
        data_source=about.data_source,
        llm_scorer=about.llm_scorer,
        sae_id=None if about.sae_id is None else sae_id(about.sae_id),
        ours=about.made_by == MADE_BY and not about.compat,
        scores=scores,
        sha256=file_sha256(path),
    )


def given_statistics(method: str, entry: Summary, ours: bool, compat: bool) -> Statistics:
    """The columns that such an entry still tells.

    Raises:
        BadInput: numbers that cannot be.
    """
    if ours:
        return _restored(entry)
    read = _Entry.model_validate(entry)
    n, score = read.total_examples - read.failure_count, read.average_score
    if n < 0 or read.failure_count < 0 or (score is not None and not math.isfinite(score)):
        raise BadInput(
            f"{method}: {read.failure_count} of {read.total_examples} examples failed, score {score}"
        )
    if score is None:
        return Statistics(n=n, n_failed=read.failure_count, reason="no score in the file that was given")
    plain = Statistics(score=score, n=n, n_failed=read.failure_count)
    if method in ("embedding", "surprisal"):
        return plain._replace(auroc=score)
    if method == "simulation":
        return plain if compat else plain._replace(score=None, reason=MIXED)
    share = wilson(round(score * n), n)
    row = plain._replace(accuracy=score, low=_or_none(share.low), high=_or_none(share.high))
    return row if compat or method == "intruder" else row._replace(reason=PLAIN)


def _restored(entry: Summary) -> Statistics:
    """A row that we wrote into a `scores.json`."""
    known = {name: value for name, value in entry.items() if name in Statistics._fields}
    try:
        return TypeAdapter(Statistics).validate_python({**known, "score": entry["average_score"]})
    except ValidationError as error:
        raise BadInput(f"an entry of ours was changed: {describe_validation(error)[:400]}") from error


def _summary(score: float | None, n: int, n_read: int, spread: float | None) -> Summary:
    return {
        "average_score": score,
        "total_examples": n,
        "failure_count": n - n_read,
        "success_count": n_read,
        "variance": spread,
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
