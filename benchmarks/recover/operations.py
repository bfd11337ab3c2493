"""Scores of single operations against the generator: bias, coverage, false findings, power.

python -m benchmarks.recover operations [--kind set --kind sequence] [--laws 6] [--draws 8] [--workers 2] [--write PAGE]

A law is the names, habits and rules of a world; each of its draws has new units, new activations, and is imported
into a store that is asked as anybody asks. Expectations are the generator's (`expected.Expected`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from benchmarks.recover.detection import null_questions, power_questions
from benchmarks.recover.draws import drawn_store, null_law
from benchmarks.recover.estimators import Asked, Reading
from benchmarks.recover.expected import Expected
from benchmarks.recover.firing import FeatureLaw
from benchmarks.recover.scores import Hit, KindScores, NullAnswer, OperationScores, render, score
from benchmarks.recover.worlds import WorldKind, draw_law
from pipeline.parallel import run_tasks
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.base import Store

RESULTS = Path(__file__).parent / "operations.json"
BEGIN = "<!-- recoverbench operations: begin (python -m benchmarks.recover operations --write docs/recoverbench.md) -->"
END = "<!-- recoverbench operations: end -->"
FIRST_SEED = 4000
"""Laws of the scores; no other part of the benchmark draws worlds with these seeds."""
UNITS: dict[WorldKind, tuple[int, ...]] = {"set": (700, 1500, 4000), "sequence": (150, 300, 700)}
"""Units of a draw, by turns."""
FEW: dict[WorldKind, int] = {"set": 250, "sequence": 60}
"""Units of draws where power is not yet complete; too few for most intervals."""
LARGE: dict[WorldKind, int] = {"set": 250_000, "sequence": 40_000}
"""Units behind the expectations."""
PER_STRATUM = 4


class Task(Frozen):
    """A law and some of its draws, or worlds of noise."""

    kind: WorldKind
    what: Literal["estimates", "null"]
    law_seed: int
    n_draws: int
    per_stratum: int = PER_STRATUM
    large: int | None = None


class TaskResult(Frozen):
    """What the draws of a task said."""

    kind: WorldKind
    readings: tuple[Reading, ...] = ()
    hits: tuple[Hit, ...] = ()
    nulls: tuple[NullAnswer, ...] = ()
    n_draws: int


def run_task(task: Task) -> TaskResult:
    """All draws of a task."""
    return _estimates(task) if task.what == "estimates" else _nulls(task)


def _estimates(task: Task) -> TaskResult:
    law = draw_law(task.kind, task.law_seed, task.per_stratum)
    expected = Expected(law, task.large or LARGE[task.kind], task.law_seed)
    readings: list[Reading] = []
    hits: list[Hit] = []
    for draw, (n_units, all_asked) in enumerate(_worlds(task)):
        seed = 1000 * task.law_seed + draw
        with drawn_store(law, n_units, seed) as store:
            for feature, one in enumerate(law.features):
                if one.structure is not None:
                    hits += _hits(store, feature, one, n_units)
                if all_asked and one.stratum != "dead":
                    asked = Asked(store, expected, feature, rng(seed, "recover", "asked", feature))
                    readings += asked.readings()
    return TaskResult(kind=task.kind, readings=tuple(readings), hits=tuple(hits), n_draws=task.n_draws)


def _worlds(task: Task) -> list[tuple[int, bool]]:
    """Units of each draw, and whether estimators are asked: the last ones are for power alone."""
    sizes = UNITS[task.kind]
    large = [(sizes[draw % len(sizes)], True) for draw in range(task.n_draws)]
    return large + (1 + task.n_draws // len(sizes)) * [(FEW[task.kind], False)]


def _hits(store: Store, feature: int, law: FeatureLaw, n_units: int) -> list[Hit]:
    found = power_questions(store, feature, law)
    return [
        Hit(operation=name, stratum=law.stratum, n_units=n_units, found=yes) for name, yes in found.items()
    ]


def _nulls(task: Task) -> TaskResult:
    answers: list[NullAnswer] = []
    for draw in range(task.n_draws):
        seed = 1000 * task.law_seed + draw
        law = null_law(task.kind, seed, n_noise=15 * task.per_stratum, n_dense=3 * task.per_stratum)
        with drawn_store(law, UNITS[task.kind][draw % len(UNITS[task.kind])], seed) as store:
            for feature, one in enumerate(law.features):
                found = null_questions(store, feature, rng(seed, "recover", "null", feature))
                answers += [NullAnswer(operation=name, stratum=one.stratum, q=q) for name, q in found.items()]
    return TaskResult(kind=task.kind, nulls=tuple(answers), n_draws=task.n_draws)


def tasks_of(kind: WorldKind, n_laws: int, n_draws: int) -> list[Task]:
    """A task of planted features and one of noise for each law."""
    seeds = range(FIRST_SEED, FIRST_SEED + n_laws)
    planted = [Task(kind=kind, what="estimates", law_seed=seed, n_draws=n_draws) for seed in seeds]
    return planted + [
        Task(kind=kind, what="null", law_seed=seed + 500, n_draws=max(1, n_draws // 4)) for seed in seeds
    ]


def measure(kind: WorldKind, n_laws: int, n_draws: int, workers: int) -> KindScores:
    """All scores of one kind, over worker processes."""
    found = list(run_tasks(run_task, tasks_of(kind, n_laws, n_draws), workers, _told))
    return together(kind, n_laws, found)


def together(kind: WorldKind, n_laws: int, found: Sequence[TaskResult]) -> KindScores:
    """Scores of all tasks of a kind."""
    return score(
        kind,
        n_laws,
        sum(r.n_draws for r in found if r.readings),
        [one for r in found for one in r.readings],
        [one for r in found for one in r.hits],
        [one for r in found for one in r.nulls],
    )


def _told(done: int, total: int) -> None:
    print(f"{done} of {total} tasks", file=sys.stderr, flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of `operations`."""
    parser.add_argument("--kind", action="append", choices=["set", "sequence"], help="default: both")
    parser.add_argument("--laws", type=int, default=6, help="worlds' laws of each kind")
    parser.add_argument("--draws", type=int, default=8, help="draws of each law")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS, help="results as JSON; other kinds in it stay")
    parser.add_argument("--write", type=Path, help="page to render the results into")
    parser.add_argument("--render", type=Path, help="render the saved results into a page; measure nothing")


def main(given: argparse.Namespace) -> None:
    """Measure, save after each kind, print, render."""
    kinds: list[WorldKind] = [] if given.render else given.kind or ["set", "sequence"]
    for kind in kinds:
        found = measure(kind, given.laws, given.draws, given.workers)
        scores = saved(given.out).with_kind(found)
        given.out.write_text(scores.model_dump_json(indent=1) + "\n", encoding="utf-8")
    scores = saved(given.out)
    print(render(scores))
    if page := given.write or given.render:
        page.write_text(put(page.read_text(encoding="utf-8"), render(scores)), encoding="utf-8")


def saved(path: Path) -> OperationScores:
    """What was measured before; nothing when nothing was."""
    if not path.is_file():
        return OperationScores(kinds=())
    return OperationScores.model_validate_json(path.read_text(encoding="utf-8"))


def put(page: str, part: str) -> str:
    """The page with its part about operations replaced, or added at the end."""
    block = f"{BEGIN}\n{part}\n{END}"
    if BEGIN not in page:
        return f"{page.rstrip()}\n\n{block}\n"
    before, rest = page.split(BEGIN, 1)
    return before + block + rest.split(END, 1)[1]
