"""`saeinterp-pipeline build`: all stages of a run, then the store in its place."""

import json
from pathlib import Path
from typing import Any

from pipeline.config import Execution, RunConfig
from pipeline.progress import Reporter
from pipeline.runner import run_stages
from pipeline.set_config import SetRunConfig, load_run
from pipeline.stage import Stage
from pipeline.stages import STAGES
from pipeline.stages.bundle_to_store import STORE
from pipeline.stages.publish_store import deliver_store
from pipeline.stages.set_stages import set_stages


def build_store(
    config: Path,
    only: str | None = None,
    workers: int | None = None,
    max_memory_gb: float | None = None,
    progress: Reporter | None = None,
) -> Path | None:
    """Build everything a config asks for; the store's folder, or None when only another stage ran.

    Raises:
        SaeInterpError: a config, an input or a load check that does not fit.
    """
    run = load_run(config)
    changed = {"workers": workers, "max_memory_gb": max_memory_gb}
    update = {name: value for name, value in changed.items() if value is not None}
    execution: Execution = run.execution.model_copy(update=update)
    stages = stages_of(run)
    if isinstance(run, SetRunConfig):
        require_files(stages, run)
    folders = run_stages(stages, run, only=only, execution=execution, progress=progress)
    if only not in (None, "publish_store"):
        return None
    assert run.store.out is not None, "load_run sets store.out"
    assert run.work is not None, "load_run sets work"
    log = run.work / "build_log.jsonl"
    entries = (
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    )
    deliver_store(folders["publish_store"] / STORE, run.store.out, entries)
    return run.store.out


def stages_of(run: RunConfig | SetRunConfig) -> tuple[Stage[Any], ...]:
    """The stages of a run, by its kind."""
    if isinstance(run, RunConfig):
        return STAGES
    return set_stages(trains=run.sae.train is not None)


def require_files(stages: tuple[Stage[Any], ...], run: SetRunConfig) -> None:
    """Ask every stage for its files before the first one runs: a capture may take hours, a missing file ends it.

    Raises:
        BadInput: one is not there.
    """
    for stage in stages:
        stage.external(stage.config_of(run))
