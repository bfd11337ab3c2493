"""Folders of results written by hand: older files, SAE_vis' layout, and everything that can be wrong with them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.importers.results.records import Explanation, Problem, Results, ScoreFile

FIXTURES = Path(__file__).parents[2] / "fixtures" / "delphi"
RUN, WIDE, TOKENIZER = FIXTURES / "run", FIXTURES / "wide", FIXTURES / "tokenizer"


def write(folder: Path, files: Mapping[str, Any]) -> Path:
    """Files of a folder: bytes and strings as they are, anything else as JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def tried(
    activating: bool, prediction: bool | None, distance: float, probability: float | None = None
) -> Any:
    """An item of detection or fuzzing as delphi writes it now."""
    return {
        "str_tokens": ["a"],
        "activations": [0.0],
        "distance": distance,
        "activating": activating,
        "prediction": prediction,
        "probability": probability,
        "correct": None if prediction is None else prediction == activating,
    }


def tried_of_old(fires: bool, prediction: int, distance: float, highlighted: bool, **more: Any) -> Any:
    """An item of `article_version`."""
    return {
        "text": "a",
        "distance": distance,
        "ground_truth": fires,
        "prediction": prediction,
        "highlighted": highlighted,
        **more,
    }


class Everything:
    """All that a folder holds, and what was passed over."""

    def __init__(self, results: Results) -> None:
        self.problems: list[Problem] = []
        self.explanations: list[Explanation] = list(results.explanations(self.problems))
        self.scores: list[ScoreFile] = list(results.scores(self.problems))

    @property
    def told(self) -> list[tuple[str, str]]:
        """(kind, name) of what was passed over."""
        return [(problem.kind, problem.path.name) for problem in self.problems]

    def score(self, method: str, feature: int) -> ScoreFile:
        """The one of a method and feature."""
        (found,) = [one for one in self.scores if (one.method, one.feature) == (method, feature)]
        return found
