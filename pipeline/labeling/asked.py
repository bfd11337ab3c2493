"""Which features are asked for, in each of the forms that the seed took: a list, a string, a JSON file."""

import json
import math
import operator
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saeinterp_mcp.errors import BadInput, UnknownName
from saeinterp_mcp.frozen import Frozen

FORMS = "a list of integers, '11,313,251', or a JSON file with feature_indices and scores"


class AskedFeatures(Frozen):
    """Features in the order asked for, each with the caller's own number."""

    features: tuple[int, ...]
    scores: tuple[float, ...]
    """0 for all where no scores were given."""
    scores_given: bool


def asked_features(asked: object, scores: Sequence[float] | None = None) -> AskedFeatures:
    """Read the features asked for.

    Args:
        asked: a list of integers, a string of them with commas or spaces between, or a JSON file.
        scores: one for each; not with a file that holds its own.

    Raises:
        BadInput: none of these; a feature twice or below 0; another number of scores than of features.
    """
    where = "feature_indices"
    if isinstance(asked, Path) or (isinstance(asked, str) and Path(asked).is_file()):
        where = str(asked)
        asked, in_file = _from_file(Path(asked))
        if in_file is not None and scores is not None:
            raise BadInput(f"{where} holds scores, and feature_scores are given too; give one of them")
        scores = in_file if in_file is not None else scores
    elif isinstance(asked, str):
        asked = _from_string(asked)
    features = _checked(asked, where)
    if scores is None:
        return AskedFeatures(features=features, scores=(0.0,) * len(features), scores_given=False)
    numbers = tuple(_number(score, where) for score in scores)
    if len(numbers) != len(features):
        raise BadInput(
            f"{where}: {len(features)} feature_indices but {len(numbers)} scores; each feature needs its own"
        )
    return AskedFeatures(features=features, scores=numbers, scores_given=True)


def require_features(asked: AskedFeatures, n_features: int) -> None:
    """Refuse features that the SAE does not have.

    Raises:
        UnknownName: at least one.
    """
    beyond = [feature for feature in asked.features if feature >= n_features]
    if beyond:
        raise UnknownName(
            f"the SAE has features 0 to {n_features - 1}, not {', '.join(map(str, beyond[:8]))}; "
            f"{len(beyond)} of the {len(asked.features)} asked for are beyond it"
        )


def _from_file(path: Path) -> tuple[Any, list[Any] | None]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} could not be read: {error.strerror}; features are {FORMS}") from error
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}; features are {FORMS}") from error
    if not isinstance(content, dict) or not isinstance(content.get("feature_indices"), list):
        raise BadInput(
            f"{path} must be a JSON object with a list feature_indices, and scores beside it or not"
        )
    scores = content.get("scores")
    if scores is not None and not isinstance(scores, list):
        raise BadInput(f"{path}: scores must be a list, found {type(scores).__name__}")
    return content["feature_indices"], scores


def _from_string(text: str) -> list[int]:
    parts = [part for part in re.split(r"[,\s]+", text.strip().strip("[]")) if part]
    if not all(re.fullmatch(r"[+-]?[0-9]+", part) for part in parts):
        raise BadInput(
            f"feature_indices is {text[:80]!r}, which is no file here and no numbers; give {FORMS}"
        )
    return [int(part) for part in parts]


def _checked(asked: Any, where: str) -> tuple[int, ...]:
    if isinstance(asked, str | bytes | dict) or not hasattr(asked, "__iter__"):
        raise BadInput(f"{where} is {type(asked).__name__}; give {FORMS}")
    features = []
    for one in asked:
        try:
            if isinstance(one, bool):
                raise TypeError
            features.append(operator.index(one))
        except TypeError as error:
            raise BadInput(f"{where} holds {one!r}, which is no integer; give {FORMS}") from error
    if not features:
        raise BadInput(f"{where} is empty; give {FORMS}")
    if below := [feature for feature in features if feature < 0]:
        raise BadInput(f"{where} holds {below[0]}; features are numbered from 0")
    twice = sorted({feature for feature in features if features.count(feature) > 1})
    if twice:
        raise BadInput(
            f"{where} holds {', '.join(map(str, twice[:8]))} more than once; each feature is asked for once"
        )
    return tuple(features)


def _number(score: Any, where: str) -> float:
    if isinstance(score, bool) or not hasattr(score, "__float__") or not math.isfinite(float(score)):
        raise BadInput(f"{where}: the score {score!r} is no finite number")
    return float(score)
