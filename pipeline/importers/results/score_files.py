"""One file of a scorer's results, of either of delphi's generations: what it is follows from its keys."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.importers.results.explanation_files import Content
from pipeline.importers.results.records import Answer, Method, Problem, ScoreFile, Simulated

FOLDERS: tuple[tuple[str, Method], ...] = (
    ("example", "example_embedding"),
    ("embed", "embedding"),
    ("fuzz", "fuzz"),
    ("detect", "detection"),
    ("recall", "detection"),
    ("simul", "simulation"),
    ("surprisal", "surprisal"),
    ("intru", "intruder"),
)
"""Part of a folder's name (people name them: fuzz, fuzzing, detection_logprobs) and the method; `recall` is what
detection was called first."""
Items = Sequence[Mapping[str, Any]]


class _Foreign(Exception):
    """An item is not what its file's first one says."""


def method_named(folder: str) -> Method | None:
    """The method that a folder's name tells."""
    return next((method for part, method in FOLDERS if part in folder.casefold()), None)


def read_score(path: Path, feature: int, folder: str) -> ScoreFile | Problem:
    """What a file holds, or why it is passed over."""
    content = Content(path)
    if content.problem is not None:
        return content.problem
    try:
        items = json.loads(content.text)
    except (ValueError, RecursionError) as error:
        if content.text.lstrip().startswith(("[", "{")):
            return Problem(path, "truncated", f"JSON that does not end well: {error}")
        return Problem(path, "foreign", "no JSON")
    if isinstance(items, dict) and "scored_sequence_simulations" in items:
        items = [items]
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return Problem(path, "foreign", "no list of results")
    method = method_of(items[0], folder) if items else method_named(folder)
    if method is None:
        return Problem(path, "foreign", _unknown(items, folder))
    old = bool(items) and "ground_truth" in items[0]
    try:
        answers, simulated = _results(method, items)
    except _Foreign as error:
        return Problem(path, "foreign", str(error))
    return ScoreFile(feature, method, folder, answers, simulated, _generation(old), path, content.sha256)


def method_of(item: Mapping[str, Any], folder: str) -> Method | None:
    """What an item's keys say, and the folder's name where they say fuzz or detection alike."""
    keys = item.keys()
    if "scored_sequence_simulations" in keys:
        return "simulation"
    if "similarity" in keys:
        return "embedding"
    if "delta_plus" in keys:
        return "example_embedding"
    if "no_explanation" in keys:
        return "surprisal"
    if "correct_index" in keys:
        return "intruder"
    if not {"activating", "ground_truth"} & keys:
        return None
    by_name = method_named(folder)
    if by_name in ("fuzz", "detection"):
        return by_name
    if "highlighted" in keys:
        return "fuzz" if item["highlighted"] else "detection"
    return None


def fires(distances: Sequence[Any]) -> list[bool]:
    """Whether the feature fires in each text, of files that do not say so.

    delphi writes the quantile of a text that fires as an integer, and the distance of one that does not as a float,
    which is -1.0 or minus a neighbour's likeness, so it may be above 0. Where no integer is there, another writer
    made the file and the sign has to do.
    """
    typed = any(type(distance) is int for distance in distances)
    return [
        (type(distance) is int or (not typed and isinstance(distance, float))) and distance >= 0
        for distance in distances
    ]


def _results(method: Method, items: Items) -> tuple[tuple[Answer, ...], tuple[Simulated, ...]]:
    if method == "simulation":
        return (), tuple(_simulated(i, item) for i, item in enumerate(items))
    if method in ("fuzz", "detection"):
        return _classified(items), ()
    if method == "intruder":
        return tuple(_intruder(i, item) for i, item in enumerate(items)), ()
    if method == "example_embedding":
        return tuple(answer for i, item in enumerate(items) for answer in _examples(i, item)), ()
    fire = fires([_need(i, item, "distance") for i, item in enumerate(items)])
    value = _similarity if method == "embedding" else _gain
    return tuple(
        Answer(yes, None, None, _number(item["distance"]), value(i, item))
        for i, (item, yes) in enumerate(zip(items, fire, strict=True))
    ), ()


def _classified(items: Items) -> tuple[Answer, ...]:
    """Fuzz and detection, of either generation."""
    key = "ground_truth" if items and "ground_truth" in items[0] else "activating"
    values = [_finite(item.get("probability")) for item in items]
    if key == "ground_truth" and not any(values):
        values = [None] * len(items)  # older files say 0 where nobody asked for probabilities
    answers = []
    for i, (item, value) in enumerate(zip(items, values, strict=True)):
        activating = _truth(_need(i, item, key))
        if activating is None:
            raise _Foreign(f"item {i}: {key} is {_shown(item[key])}, neither true nor false")
        prediction = _truth(item["prediction"]) if "prediction" in item else None
        # one that could not be read is neither right nor wrong, whatever an older file says
        unread = "prediction" in item and prediction is None
        correct = None if unread else _truth(item.get("correct"))
        answers.append(Answer(activating, prediction, correct, _number(item.get("distance")), value))
    return tuple(answers)


def _intruder(i: int, item: Mapping[str, Any]) -> Answer:
    """One of several texts was to be found; without a sample the answer could not be read."""
    sample, correct = _need(i, item, "sample"), _truth(item.get("correct"))
    if sample is None:
        return Answer(True, None, None, math.nan)
    if not isinstance(sample, dict) or not isinstance(sample.get("examples"), list):
        raise _Foreign(f"item {i}: a sample without examples")
    found = item.get("prediction") == item.get("correct_index")
    return Answer(
        True, found, correct, _number(sample.get("chosen_quantile")), n_choices=len(sample["examples"])
    )


def _examples(i: int, item: Mapping[str, Any]) -> tuple[Answer, Answer]:
    """Two queries of a batch; the explanation had no part in it."""
    batch = _need(i, item, "batch")
    if not isinstance(batch, dict):
        raise _Foreign(f"item {i}: a batch that is {_shown(batch)}")
    return (
        Answer(
            True, None, None, _number(batch.get("quantile_positive_query")), _finite(item.get("delta_plus"))
        ),
        Answer(
            False, None, None, _number(batch.get("distance_negative_query")), _finite(item.get("delta_minus"))
        ),
    )


def _simulated(i: int, item: Mapping[str, Any]) -> Simulated:
    sequences = _need(i, item, "scored_sequence_simulations")
    distance = _finite(item.get("distance", 0))
    if not isinstance(sequences, list) or distance is None:
        raise _Foreign(f"item {i}: no group of simulated sequences")
    n = 0
    for sequence in sequences:
        true = sequence.get("true_activations") if isinstance(sequence, dict) else None
        if not isinstance(true, list):
            raise _Foreign(f"item {i}: a sequence without true_activations")
        n += len(true)
    return Simulated(int(distance), _finite(_need(i, item, "ev_correlation_score")), n)


def _similarity(i: int, item: Mapping[str, Any]) -> float | None:
    return _finite(_need(i, item, "similarity"))


def _gain(i: int, item: Mapping[str, Any]) -> float | None:
    """How much less a token of the text surprises once the explanation was read; None where that is not known."""
    means = []
    for key in ("no_explanation", "explanation"):
        losses = _need(i, item, key)
        if not isinstance(losses, list):
            raise _Foreign(f"item {i}: {key} is no list")
        numbers = [_finite(loss) for loss in losses]
        if not numbers or None in numbers:
            return None
        means.append(math.fsum(n for n in numbers if n is not None) / len(numbers))
    return means[0] - means[1]


def _need(i: int, item: Mapping[str, Any], key: str) -> Any:
    if key not in item:
        raise _Foreign(f"item {i} has no {key}, as the others have")
    return item[key]


def _truth(value: Any) -> bool | None:
    """True and false, also as 1 and 0; -1 is an answer that older files could not read."""
    return (
        bool(value)
        if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1))
        else None
    )


def _finite(value: Any) -> float | None:
    """A number; None for null, `"nan"`, NaN and infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of some hundred digits
        return None


def _number(value: Any) -> float:
    found = _finite(value)
    return math.nan if found is None else found


def _generation(old: bool) -> Literal["delphi", "article_version"]:
    return "article_version" if old else "delphi"


def _unknown(items: Items, folder: str) -> str:
    if not items:
        return f"no result, and the folder {folder!r} tells no method"
    if {"activating", "ground_truth"} & items[0].keys():
        return f"neither its content nor the folder {folder!r} tells fuzz from detection"
    return f"results of no scorer that is known; they have {', '.join(sorted(map(str, items[0]))[:8])}"


def _shown(value: Any) -> str:
    return repr(value)[:40]
