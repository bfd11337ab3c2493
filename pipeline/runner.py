"""Runs stages in order, skips those whose fingerprint is done, and says what it skipped and why."""

import fcntl
import json
import logging
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.artifact import Artifact, ArtifactWriter, Identity, differences
from pipeline.config import Execution, RunConfig
from pipeline.fingerprint import FileHashes, code_hashes, package_version
from pipeline.progress import Reporter, default_reporter, summary_line
from pipeline.stage import RunSections, Stage
from saeinterp_mcp.errors import BadInput, BadStore, nearest

logger = logging.getLogger(__name__)


def run_pipeline(
    config_path: Path,
    only: str | None = None,
    execution: Execution | None = None,
    progress: Reporter | None = None,
) -> dict[str, Path]:
    """Build everything that a config asks for, or one stage of it.

    What is done is kept. A run that was killed goes on where it was, and ends with the same bytes.

    Args:
        config_path: the YAML file (`RunConfig`).
        only: run this stage alone; the stages it reads must be done.
        execution: device, threads, workers; in place of the config's own section.
        progress: who is told; default a bar on a terminal, else log lines, on stderr.

    Returns:
        The folder of each stage's artifact, by the stage's name.

    Raises:
        SaeInterpError: a config, an input file or a load check that does not fit.
    """
    from pipeline.stages import STAGES

    run = RunConfig.load(config_path)
    return run_stages(STAGES, run, only=only, execution=execution, progress=progress)


def run_stages(
    stages: Sequence[Stage[Any]],
    run: RunSections,
    only: str | None = None,
    execution: Execution | None = None,
    progress: Reporter | None = None,
) -> dict[str, Path]:
    """Run the given stages in order; see `run_pipeline`."""
    reporter = progress if progress is not None else default_reporter()
    assert run.work is not None, "RunConfig.load sets work"
    names = [stage.name for stage in stages]
    if only is not None and only not in names:
        raise BadInput(f"there is no stage {only!r}; {nearest(only, names)}")
    run.work.mkdir(parents=True, exist_ok=True)
    with sole_use(run.work):
        return _run_in_order(stages, run, run.work, only, execution or run.execution, reporter)


def _run_in_order(
    stages: Sequence[Stage[Any]],
    run: RunSections,
    work: Path,
    only: str | None,
    execution: Execution,
    reporter: Reporter,
) -> dict[str, Path]:
    hashes = FileHashes(work / "file_hashes.json")
    fingerprints: dict[str, str] = {}
    for stage in stages:
        needed = only is None or only == stage.name
        if not needed and stage.name not in _inputs_of(stages, only):
            continue
        identity = identify(stage, run, fingerprints, hashes)
        fingerprints[stage.name] = identity.fingerprint
        why = why_not_done(work, identity)
        if why is None:
            reporter.say(f"{stage.name}: skipped, fingerprint {identity.fingerprint[:12]} is done")
        elif needed:
            run_stage(stage, run, identity, why, execution, reporter)
        else:
            raise BadInput(f"{only} reads {stage.name}, which is not done ({why}); run without --only")
    return {name: work / name for name in fingerprints}


@contextmanager
def sole_use(work: Path) -> Iterator[None]:
    """Keep a second build out of the folder. The lock goes with the process, however that ends.

    Raises:
        BadInput: another process builds there.
    """
    with (work / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(
                f"another build is running in {work}; wait for it, or give this run another `work`"
            ) from error
        yield


def identify(
    stage: Stage[Any], run: RunSections, fingerprints: dict[str, str], hashes: FileHashes
) -> Identity:
    """Everything that decides the artifact a stage would leave."""
    config = stage.config_of(run)
    for name in stage.inputs:
        assert name in fingerprints, f"{stage.name} reads {name}, which is not a stage before it"
    return Identity(
        stage=stage.name,
        config=config.model_dump(mode="json"),
        inputs={name: fingerprints[name] for name in stage.inputs},
        files=hashes.of_inputs(stage.external(config)),
        code={**code_hashes(stage.modules), "version": package_version()},
    )


def why_not_done(work: Path, identity: Identity) -> str | None:
    """Why the stage must run; None if its artifact is there, whole and of this fingerprint."""
    folder = work / identity.stage
    if not folder.exists():
        partial = work / f"{identity.stage}.partial"
        return "not finished yet" if partial.exists() else "not built yet"
    try:
        artifact = Artifact.read(folder)
    except BadStore as error:
        return f"damaged: {error}"
    if artifact.fingerprint == identity.fingerprint:
        return None
    return "; ".join(differences(artifact.identity, identity)) or "fingerprint changed"


def run_stage(
    stage: Stage[Any],
    run: RunSections,
    identity: Identity,
    why: str,
    execution: Execution,
    reporter: Reporter,
) -> None:
    """Run one stage and give its artifact the final name."""
    assert run.work is not None, "RunConfig.load sets work"
    reporter.say(f"{stage.name}: runs, {why}")
    writer = ArtifactWriter(run.work, identity)
    continues = writer.folder.exists()
    thrown_away = writer.open()
    if thrown_away is not None:
        reporter.say(f"{stage.name}: an unfinished artifact was discarded, {thrown_away}")
    elif continues:
        reporter.say(f"{stage.name}: goes on from an unfinished artifact")
    started = time.monotonic()
    inputs = {name: run.work / name for name in stage.inputs}
    with reporter.working(stage.name) as advance:
        summary = stage.run(stage.config_of(run), inputs, writer.folder, advance, execution)
    artifact = writer.finish(summary)
    seconds = time.monotonic() - started
    reporter.say(summary_line(stage.name, summary, seconds, artifact.fingerprint))
    entry = {
        "stage": stage.name,
        "fingerprint": artifact.fingerprint,
        "why": why,
        "seconds": round(seconds, 3),
        "execution": execution.model_dump(mode="json"),
        "host": platform.platform(),
    }
    with (run.work / "build_log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")


def _inputs_of(stages: Sequence[Stage[Any]], only: str | None) -> set[str]:
    """The stages that `only` reads, directly or through others."""
    wanted = {only}
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted.update(stage.inputs)
    return {name for name in wanted if name is not None}
