"""Are true explanations told from others? `validate` on the demo's store and on a planted world.

python -m benchmarks.validation_planted --store demo-store [--write docs/validation.md]

The first run embeds about 15,000 texts; the folder keeps their vectors.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.validation_planted.by_hand import agreement
from benchmarks.validation_planted.explanations import SETS, demo_explanations
from benchmarks.validation_planted.measure import Part, Results, part_of
from benchmarks.validation_planted.running import outcomes, validated, with_shuffled, write_config
from benchmarks.validation_planted.table import render, write_into
from benchmarks.validation_planted.world import (
    FIRES_IN,
    TRUE_IN,
    Size,
    make_world,
    world_explanations,
    write_world,
)
from saeinterp_mcp.validation.folder import Validation

RESULTS = Path(__file__).with_name("results.json")
SEED = 0


def demo_parts(folder: Path, store: Path, model: str | None, workers: int) -> tuple[Validation, list[Part]]:
    """The demo's features: those of the list together, then each set of it."""
    folder.mkdir(parents=True, exist_ok=True)
    told = demo_explanations()
    sections = {"store": str(store.resolve()), "embedder": {"model": model}}
    # which features have examples is known after a first run
    first = validated(write_config(folder, "demo", told, **sections), workers=workers)
    told = with_shuffled(first, told, SEED)
    made = validated(write_config(folder, "demo", told, **sections), workers=workers)
    found = outcomes(made, told, folder / "work", model)
    parts = [part_of("demo, all", found, SEED)]
    listed = {one.feature: one.set for one in told if one.kind == "true"}
    for name in SETS:
        mine = [one for one in found if listed.get(one.feature) == name]
        parts.append(part_of(f"demo, {name}", mine, SEED))
    return made, parts


def world_parts(folder: Path, size: Size, model: str | None, workers: int) -> list[Part]:
    """A planted world: features of a word, and of a topic."""
    write_world(folder, make_world(size, SEED))
    told = world_explanations(size)
    given = {"activations_input_path": "activations.jsonl", "prompts_input_path": "prompts.json"}
    config = write_config(folder, "planted", told, activation_examples=given, embedder={"model": model})
    found = outcomes(validated(config, workers=workers), told, folder / "work", model)
    parts = []
    for name in ("a word", "a topic"):
        mine = [one for one in found if one.set.startswith(name)]
        parts.append(part_of(f"planted, {name}", mine, SEED))
        for n in TRUE_IN:
            some = [one for one in mine if one.set == f"{name} in {n}"]
            parts.append(part_of(f"planted, {name}, in {n} of {FIRES_IN} prompts", some, SEED))
    return parts


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, default=Path("demo-store"))
    parser.add_argument("--folder", type=Path, default=Path("build/validation-planted"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", type=Path, help="page whose section is written anew")
    parser.add_argument("--render", action="store_true", help="only write what was kept")
    parser.add_argument("--dry", action="store_true", help="do not keep the results")
    given = parser.parse_args()
    if given.render:
        results = Results.model_validate_json(RESULTS.read_text(encoding="utf-8"))
    else:
        made, demo = demo_parts(given.folder / "demo", given.store, None, given.workers)
        planted = world_parts(given.folder / "world", Size(), None, given.workers)
        embedder = made.manifest.embedder
        results = Results(
            date=datetime.now(tz=UTC).date().isoformat(),
            embedder=None if embedder is None else embedder.name,
            seed=SEED,
            parts=(*demo, *planted),
            by_hand=agreement(made, [f for texts in SETS.values() for f in texts]),
        )
        if not given.dry:
            RESULTS.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    print(render(results))
    if given.write:
        write_into(given.write, render(results))


if __name__ == "__main__":
    main()
