"""RecoverBench: how often tools and investigators find what is planted.

python -m benchmarks.recover report --kind set --seeds 1,2,3 [--units N] [--shuffled] [--write docs/recoverbench.md]
python -m benchmarks.recover operations ...      how right each operation is
python -m benchmarks.recover task --out DIR --truth FILE     stores and a task for another investigator
python -m benchmarks.recover claim TASK --out CLAIMS.json    a built-in investigator's claims of a task
python -m benchmarks.recover score CLAIMS.json --task DIR --truth FILE
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.recover import operations
from benchmarks.recover.claims import ClaimsFile, Task
from benchmarks.recover.contenders import CONTENDERS, SCRIPTED, score
from benchmarks.recover.report import add_arguments as add_report_arguments
from benchmarks.recover.report import main as report
from benchmarks.recover.report import seeds
from benchmarks.recover.tables import overall_table, stratum_table
from benchmarks.recover.tasks import TASK, read_record, score_claims, write_task
from saeinterp_mcp.errors import SaeInterpError
from saeinterp_mcp.store.open import open_store


def parser() -> argparse.ArgumentParser:
    """All commands."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.recover",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    add_report_arguments(commands.add_parser("report", help="score the built-in investigators"))
    operations.add_arguments(commands.add_parser("operations", help="score single operations"))
    task = commands.add_parser("task", help="write a task for another investigator")
    task.add_argument("--out", type=Path, required=True, help="folder to hand over; must not exist")
    task.add_argument("--truth", type=Path, required=True, help="file of the planted truth, outside it")
    task.add_argument("--kind", choices=["set", "sequence"], default="set")
    task.add_argument("--seeds", type=seeds, default=(1,), help="one world each, e.g. 1,2")
    task.add_argument("--units", type=int, help="of each world; default the generator's")
    task.add_argument("--features-per-stratum", type=int, default=1)
    task.add_argument("--budget", type=int, default=40, help="operations a feature, told to the investigator")
    claim = commands.add_parser("claim", help="claims of a built-in investigator, from the task alone")
    claim.add_argument("task", type=Path)
    claim.add_argument("--out", type=Path, required=True)
    claim.add_argument("--investigator", choices=list(CONTENDERS), default=SCRIPTED)
    graded = commands.add_parser("score", help="score a claims file")
    graded.add_argument("claims", type=Path)
    graded.add_argument("--task", type=Path, required=True, help="folder with task.json and the stores")
    graded.add_argument("--truth", type=Path, required=True)
    graded.add_argument("--json", action="store_true", help="every grade, as JSON lines")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0 done, 2 a wrong call."""
    given = parser().parse_args(arguments)
    try:
        {"report": report, "operations": operations.main, "task": _task, "claim": _claim, "score": _score}[
            given.command
        ](given)
    except SaeInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _task(given: argparse.Namespace) -> None:
    task = write_task(
        given.out,
        given.truth,
        given.kind,
        given.seeds,
        given.budget,
        n_units=given.units,
        features_per_stratum=given.features_per_stratum,
    )
    print(f"{given.out / TASK}: task {task.task}, {sum(len(w.features) for w in task.worlds)} features")


def _claim(given: argparse.Namespace) -> None:
    task: Task = read_record(given.task / TASK, Task)
    investigator = CONTENDERS[given.investigator]
    worlds = {
        w.store: tuple(investigator(open_store(str(given.task / w.store)), w.features)) for w in task.worlds
    }
    claims = ClaimsFile(task=task.task, investigator=given.investigator, worlds=worlds)
    given.out.write_text(claims.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _score(given: argparse.Namespace) -> None:
    graded = score_claims(given.claims, given.task, given.truth)
    if given.json:
        for store, grade in graded:
            print(f'{{"store": "{store}", "grade": {grade.model_dump_json()}}}')
        return
    claims: ClaimsFile = read_record(given.claims, ClaimsFile)
    task: Task = read_record(given.task / TASK, Task)
    handed_in = [claim for mine in claims.worlds.values() for claim in mine]
    over = sum(claim.n_calls > task.budget_calls for claim in handed_in)
    print(
        f"{len(handed_in)} of {len(graded)} features claimed, {over} over the budget of {task.budget_calls} calls.\n"
    )
    found = score(claims.investigator, [grade for _, grade in graded])
    print(overall_table([found]))
    print()
    print(stratum_table([found]))


if __name__ == "__main__":
    sys.exit(main())
