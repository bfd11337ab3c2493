"""What an agent that sits a test itself may see: enough to answer, and nothing that tells the answer."""

import json

import numpy as np
import pytest

from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.scorers.base import Trial
from saeinterp_mcp.scorers.blinded import blinded
from saeinterp_mcp.store.base import Store

JUDGED = [name for name, scorer in SCORERS.items() if scorer.needs == "judge"]


def area(of: list[float], fires: list[bool]) -> float:
    """P(larger where it fires), ties half, over all pairs."""
    x, y = np.array(of), np.array(fires)
    ones, others = x[y], x[~y]
    return float(np.mean((ones[:, None] > others) + (ones[:, None] == others) / 2))


def test_nothing_is_shown_but_an_id_and_the_text(texts: Store) -> None:
    for name in JUDGED:
        trials = SCORERS[name].make(texts, 0, 10 if name == "intruder" else 40, 0)
        shown = blinded(SCORERS[name], "trials-1", trials).model_dump(mode="json")
        assert set(shown) == {"trial_set", "question", "how_to_answer", "trials"}
        for one, trial in zip(shown["trials"], trials, strict=True):
            assert one == {"trial_id": trial.trial_id, "shown": trial.shown}
        text = json.dumps(shown)
        for hidden in ("near_miss", "wrong_mark", "kind", "truth", "activation"):
            assert f'"{hidden}"' not in text
            assert hidden not in json.dumps(shown["trials"])


def test_the_question_is_the_judge_s_without_the_form_of_its_answer(texts: Store, sets: Store) -> None:
    for store in (texts, sets):
        trials = SCORERS["detection"].make(store, 0, 40, 0)
        shown = blinded(SCORERS["detection"], "trials-1", trials)
        asked = SCORERS["detection"].requests("a claim", trials)[0][0].system
        # it is handed out as a table, without fences
        assert asked.replace(", between lines of their own that open and close them", "").startswith(
            shown.question
        )
        assert "JSON" not in shown.question
        assert "in about half of them" in shown.question
        assert shown.how_to_answer.startswith("for each trial a probability from 0")


@pytest.mark.parametrize("feature", [0, 1, 6])
@pytest.mark.parametrize("name", ["detection", "fuzzing", "simulation"])
def test_order_length_and_marks_tell_nothing(texts: Store, name: str, feature: int) -> None:
    """Of 30 tests together, so that .05 is more than three standard errors of the number of tokens."""
    visible: dict[str, list[list[float]]] = {"order": [], "tokens": [], "marks": [], "place": []}
    fires: list[list[bool]] = []
    for seed in range(30):
        trials = SCORERS[name].make(texts, feature, 40, seed)
        fires.append([t.kind == "firing" for t in trials])
        visible["order"].append([float(t.trial_id[1:]) for t in trials])
        visible["tokens"].append([float(len(t.excerpts[0].tokens)) for t in trials])
        visible["marks"].append([float(len(t.marked)) for t in trials])
        visible["place"].append([float(t.marked[0]) if t.marked else 0.0 for t in trials])
    areas = {
        what: float(np.mean([area(of, y) for of, y in zip(columns, fires, strict=True)]))
        for what, columns in visible.items()
    }
    for what, found in areas.items():
        assert found == pytest.approx(0.5, abs=0.07), (what, areas)


def test_the_intruder_stands_anywhere(texts: Store) -> None:
    places: list[float] = []
    trials: tuple[Trial, ...]
    for seed in range(40):
        trials = SCORERS["intruder"].make(texts, 0, 10, seed)
        places += [t.truth for t in trials if not isinstance(t.truth, list)]
    counts = [places.count(k) / len(places) for k in range(1, 6)]
    assert counts == pytest.approx([0.2] * 5, abs=0.06)


def test_what_nobody_sits_has_no_blinded_set(texts: Store) -> None:
    trials = SCORERS["embedding"].make(texts, 0, 40, 0)
    with pytest.raises(AssertionError, match="nobody sits embedding"):
        blinded(SCORERS["embedding"], "trials-1", trials)
