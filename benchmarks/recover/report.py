"""The command that scores the built-in investigators and writes docs/recoverbench.md."""

import argparse
import sys
import time
from pathlib import Path

from benchmarks.recover.conditions import REPORTED, THE_PAGE, Condition, Results, measure
from benchmarks.recover.contenders import NAMES
from benchmarks.recover.tables import render
from saeinterp_mcp.errors import UnknownName, nearest

BEGIN = "<!-- recoverbench investigators: begin (python -m benchmarks.recover report --write docs/recoverbench.md) -->"
END = "<!-- recoverbench investigators: end -->"
RESULTS = Path(__file__).parent / "recovery.json"


def seeds(text: str) -> tuple[int, ...]:
    """1,2,5 as numbers."""
    return tuple(int(part) for part in text.split(","))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command."""
    parser.add_argument(
        "--kind", choices=["set", "sequence"], help="worlds of this kind; default: the page's"
    )
    parser.add_argument("--seeds", type=seeds, default=REPORTED, help="of those worlds, e.g. 1,2,3")
    parser.add_argument("--units", type=int, help="of each world")
    parser.add_argument("--activations", choices=["ideal", "trained"], default="ideal")
    parser.add_argument("--shuffled", action="store_true", help="activations dealt to other rows")
    parser.add_argument("--contender", action="append", choices=NAMES, help="only this one; may be repeated")
    parser.add_argument("--only", action="append", help="only this condition of the page; may be repeated")
    parser.add_argument("--write", type=Path, help="page to render the results into")
    parser.add_argument("--render", type=Path, help="render the saved results into a page; measure nothing")


def main(given: argparse.Namespace) -> None:
    """Measure, save, render. With --write each condition is saved when it is done, beside those measured before."""
    if given.render:
        write(saved(), given.render)
        return
    results = saved() if given.write else Results()
    for condition in _conditions(given):
        run = measure(
            condition, time.strftime("%Y-%m-%d"), lambda text: print(text, file=sys.stderr, flush=True)
        )
        results = (saved() if given.write else results).with_run(run)
        if given.write:
            save(results)
    print(render(results))
    if given.write:
        write(results, given.write)


def _conditions(given: argparse.Namespace) -> tuple[Condition, ...]:
    if not given.kind:
        known = {c.name: c for c in THE_PAGE}
        for name in given.only or ():
            if name not in known:
                raise UnknownName(f"no condition {name!r} on the page; {nearest(name, known)}")
        return tuple(known[name] for name in given.only or known)
    words = [given.kind, *(["shuffled"] if given.shuffled else []), given.activations]
    return (
        Condition(
            name=", ".join(words),
            kind=given.kind,
            seeds=given.seeds,
            n_units=given.units,
            activations=given.activations,
            shuffled=given.shuffled,
            contenders=tuple(given.contender or NAMES),
        ),
    )


def saved() -> Results:
    """What was measured before; nothing when nothing was."""
    if not RESULTS.is_file():
        return Results()
    return Results.model_validate_json(RESULTS.read_text(encoding="utf-8"))


def save(results: Results) -> None:
    """Whole, then renamed."""
    making = RESULTS.with_suffix(".making")
    making.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    making.replace(RESULTS)


def write(results: Results, page: Path) -> None:
    """Render the results into the page between its markers (appended when it has none)."""
    page.write_text(put(page.read_text(encoding="utf-8"), render(results)), encoding="utf-8")


def put(page: str, part: str) -> str:
    """The page with its measured part replaced."""
    block = f"{BEGIN}\n{part}\n{END}"
    if BEGIN not in page:
        return f"{page.rstrip()}\n\n{block}\n"
    before, rest = page.split(BEGIN, 1)
    return before + block + rest.split(END, 1)[1]
