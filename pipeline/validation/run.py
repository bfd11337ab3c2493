"""`saeinterp-pipeline validate`: the stages whose inputs are given, then the folder of tables in its place."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.config import Execution
from pipeline.fingerprint import FileHashes
from pipeline.progress import Reporter, default_reporter
from pipeline.runner import identify, run_stages, sole_use, why_not_done
from pipeline.stage import Stage
from pipeline.validation.config import ValidationRun
from pipeline.validation.inputs import Inputs, dump_inputs
from pipeline.validation.publish import check_place, publish_run
from pipeline.validation.stages import OPTIONAL, VALIDATION_STAGES
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.store.open import open_store

NEEDED = {
    "activation_examples": "activation_examples.activations_input_path (and prompts_input_path), or "
    "activation_examples.given, or a store",
    "decoder_similarities": "feature_similarities.weights or .given, or a store that has its decoder",
    "scores": "data_sources, or scores.given, or held-out tests of labels beside the store",
    "explanation_embeddings": "data_sources, or explanation_embeddings.given, or labels beside the store",
}
"""Stage that reads files to what may be given to it."""


class Plan(NamedTuple):
    """What a run does."""

    stages: tuple[Stage[Any], ...]
    left_out: dict[str, str]
    """Stage to what it would need."""


def run_validation(
    config_path: Path,
    only: str | None = None,
    execution: Execution | None = None,
    progress: Reporter | None = None,
    stages: Sequence[Stage[Any]] = VALIDATION_STAGES,
) -> Path:
    """Run the stages whose inputs are given, and publish what they leave; the published folder.

    What is done is kept: a second run does nothing, and after a change only what depends on it runs. Killed, it goes
    on where it was. With `only`, that stage alone runs, and the folder changes only if everything else is done.

    Args:
        config_path: the YAML file (`ValidationRun`).
        only: run this stage alone; the stages it reads must be done.
        execution: workers; in place of the config's own section.
        progress: who is told; default a bar on a terminal, else log lines, on stderr.
        stages: what to choose from.

    Raises:
        BadInput: a config or an input that does not fit, or none at all; nothing is published.
        BadStore: the store or an input is damaged.
    """
    reporter = progress if progress is not None else default_reporter()
    run = ValidationRun.load(config_path)
    assert run.work is not None, "load sets work"
    assert run.out is not None, "load sets out"
    check_place(run)
    inputs = dump_inputs(run.work, run.store)
    plan = plan_stages(stages, run, inputs)
    for name, reason in plan.left_out.items():
        reporter.say(f"{name}: left out, it needs {reason}")
    if not plan.stages:
        raise BadInput(f"{config_path} names no input: give {NEEDED['activation_examples']}")
    names = [stage.name for stage in plan.stages]
    if only is not None and only not in names:
        if only in plan.left_out:
            raise BadInput(f"{only} was left out: it needs {plan.left_out[only]}")
        raise BadInput(f"there is no stage {only!r}; {nearest(only, names)}")
    for stage in plan.stages:
        stage.external(stage.config_of(run))  # a file that is missing is told before hours of work
    folders = run_stages(plan.stages, run, only=only, execution=execution, progress=reporter)
    waiting = [] if only is None else not_done(plan.stages, run)
    if waiting:
        reporter.say(
            f"not published: {', '.join(waiting)} {'is' if len(waiting) == 1 else 'are'} not done; "
            "run without --only"
        )
        return run.out
    with sole_use(run.work):
        done = publish_run({stage.name: run.work / stage.name for stage in plan.stages} | folders, run)
    reporter.say(f"{run.out}: {'published' if done else 'nothing changed, left as it was'}")
    return run.out


def plan_stages(stages: Sequence[Stage[Any]], run: ValidationRun, inputs: Inputs) -> Plan:
    """The stages that have what they need, in order, and why the others have not."""
    given = _not_given(run, inputs)
    chosen: list[Stage[Any]] = []
    left_out: dict[str, str] = {}
    for stage in stages:
        there = {one.name for one in chosen}
        missing = [name for name in stage.inputs if name not in there]
        needed = [name for name in missing if name not in OPTIONAL.get(stage.name, ())]
        if given.get(stage.name) is not None:
            left_out[stage.name] = str(given[stage.name])
        elif needed:
            left_out[stage.name] = " and ".join(needed)
        else:
            chosen.append(replace(stage, inputs=tuple(name for name in stage.inputs if name in there)))
    return Plan(tuple(chosen), left_out)


def _not_given(run: ValidationRun, inputs: Inputs) -> dict[str, str | None]:
    """Stage that reads files to what it lacks; None where nothing is lacking."""
    activations, decoder = run.activation_examples, run.feature_similarities
    labels = inputs.n_labels if run.explanation_embeddings.labels else 0
    explained = run.data_sources or run.explanation_embeddings.given or labels
    has = {
        "activation_examples": activations.activations_input_path or activations.given or run.store,
        "decoder_similarities": decoder.weights or decoder.given or (run.store and _has_decoder(run.store)),
        "scores": explained or run.scores.given or inputs.n_tests,
        "explanation_embeddings": explained,
    }
    return {name: None if there else NEEDED[name] for name, there in has.items()}


def _has_decoder(store: Path) -> bool:
    return open_store(store).backend.has("weights/decoder")


def not_done(stages: Sequence[Stage[Any]], run: ValidationRun) -> list[str]:
    """Stages whose artifact is not of this config and these inputs."""
    assert run.work is not None, "load sets work"
    hashes = FileHashes(run.work / "file_hashes.json")
    fingerprints: dict[str, str] = {}
    found = []
    for stage in stages:
        identity = identify(stage, run, fingerprints, hashes)
        fingerprints[stage.name] = identity.fingerprint
        if why_not_done(run.work, identity) is not None:
            found.append(stage.name)
    return found
