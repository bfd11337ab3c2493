"""Tasks for other investigators: stores, a task file without truth, and the truth kept elsewhere."""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from benchmarks.recover.claims import ClaimsFile, FamilyNames, Task, WorldTask, check_claims
from benchmarks.recover.nulls import shuffle_bundle
from benchmarks.recover.scoring import Grade, grade_all
from benchmarks.recover.truth import Claim, Truth
from benchmarks.recover.worlds import WorldKind, write_world
from pipeline.importers.run_import import import_bundle
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.frozen import Frozen, describe_validation
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store

TASK, TRUTH = "task.json", "truth.json"


class TruthFile(Frozen):
    """What is planted, by store. Not to be shown to an investigator."""

    task: str
    worlds: dict[str, tuple[Truth, ...]]


INSTRUCTIONS = (
    "For each feature of each store, find out which tokens, families or groups make it fire more or less, using the "
    "operations of the saeinterp server (MCP or command line) and nothing else. Then write a claims file that follows "
    "claims_schema. A structure is right only if everything in it is: polarity, families with their thresholds (the "
    "lowest level from which it acts), how they combine, the gate, the tail stimulus; `dose` says that strength grows "
    "with the level, whose threshold is then not scored. structure null says that nothing can be claimed: some "
    "features are dead or noise, and a claim about these is a false one. confidence is the probability that the "
    "structure is exactly right (for null: that nothing is there). Count the operations you ask in n_calls."
)


def build_world(
    folder: Path, kind: WorldKind, seed: int, *, shuffled: bool = False, **options: Any
) -> tuple[Store, list[Truth]]:
    """A world of the generator as a store.

    Args:
        folder: made if need be; `bundle` and `store` go into it.
        kind: set or sequence.
        seed: of the world.
        shuffled: activations dealt to other rows (`nulls`), so that nothing goes with anything and all truths are null.
        options: of `write_world`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truths = write_world(folder / "bundle", kind, seed, **options)
    if shuffled:
        shuffle_bundle(folder / "bundle", seed)
        truths = [Truth(feature=t.feature, stratum="noise", structure=None) for t in truths]
    import_bundle(folder / "bundle", folder / "store", progress=_Quiet())
    return open_store(str(folder / "store")), truths


class _Quiet:
    """A reporter that says nothing: a report makes dozens of stores."""

    def say(self, text: str) -> None:
        pass

    def working(self, name: str) -> Any:
        return nullcontext(lambda done, total: None)


def write_task(
    out: Path, truth: Path, kind: WorldKind, seeds: Sequence[int], budget_calls: int = 40, **options: Any
) -> Task:
    """Write stores and `task.json` under `out`, and the truth into a file elsewhere.

    Raises:
        BadInput: `out` exists, or the truth would lie in it.
    """
    if out.exists():
        raise BadInput(f"{out} exists; give a folder that does not, or remove it")
    if truth.resolve().is_relative_to(out.resolve()):
        raise BadInput(f"the truth ({truth}) would lie in the folder that the investigator is given ({out})")
    out.mkdir(parents=True)
    worlds: list[WorldTask] = []
    truths: dict[str, tuple[Truth, ...]] = {}
    for seed in seeds:
        name = f"world{len(worlds) + 1}"
        # the generator writes its truths beside the bundle, so it works in a folder that goes
        with tempfile.TemporaryDirectory() as making:
            _, planted = build_world(Path(making) / "world", kind, seed, **options)
            shutil.copytree(Path(making) / "world" / "store", out / name)
        truths[name] = tuple(planted)
        worlds.append(_world_task(name, open_store(str(out / name)), planted))
    name = fingerprint([w.model_dump(mode="json") for w in worlds])
    task = Task(
        task=name,
        instructions=INSTRUCTIONS,
        budget_calls=budget_calls,
        worlds=tuple(worlds),
        claims_schema=ClaimsFile.model_json_schema(),
    )
    (out / TASK).write_text(task.model_dump_json(indent=1) + "\n", encoding="utf-8")
    truth.parent.mkdir(parents=True, exist_ok=True)
    kept = TruthFile(task=name, worlds=truths)
    truth.write_text(kept.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return task


def _world_task(name: str, store: Store, truths: Sequence[Truth]) -> WorldTask:
    groups: dict[str, tuple[str, ...]] = {}
    for g in store.manifest.groups:
        groups[g.name] = g.values
        groups |= {f"{g.name}.{a}": tuple(sorted(set(values))) for a, values in g.attributes.items()}
    return WorldTask(
        store=name,
        fingerprint=store.fingerprint,
        kind=store.manifest.kind,
        features=tuple(t.feature for t in truths),
        families={n: FamilyNames(levels=f.levels, encoding=f.encoding) for n, f in store.families.items()},
        groups=groups,
    )


def read_record(path: Path, model: type[Any]) -> Any:
    """A record from a JSON file.

    Raises:
        BadInput: it is missing, no JSON, or does not fit; the message names file and field.
    """
    if not path.is_file():
        raise BadInput(f"{path} does not exist or is not a file")
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        said = describe_validation(error) if isinstance(error, ValidationError) else str(error)
        raise BadInput(f"{path}: {said}") from error


def score_claims(claims_file: Path, task_folder: Path, truth_file: Path) -> list[tuple[str, Grade]]:
    """(store, grade) of every feature asked for.

    Raises:
        BadInput: a file does not fit the others; the message says which claim.
    """
    task: Task = read_record(task_folder / TASK, Task)
    truth: TruthFile = read_record(truth_file, TruthFile)
    claims: ClaimsFile = read_record(claims_file, ClaimsFile)
    if truth.task != task.task:
        raise BadInput(
            f"{truth_file} is the truth of task {truth.task}, {task_folder / TASK} is task {task.task}"
        )
    check_claims(claims, task.task, {w.store: w for w in task.worlds})
    graded = []
    for world in task.worlds:
        store = open_store(str(task_folder / world.store))
        if store.fingerprint != world.fingerprint:
            raise BadInput(
                f"store {task_folder / world.store} is {store.fingerprint}, "
                f"the task was made with {world.fingerprint}; score with the folder that was handed out"
            )
        mine: Sequence[Claim] = claims.worlds.get(world.store, ())
        graded += [(world.store, g) for g in grade_all(store, mine, truth.worlds[world.store])]
    return graded
