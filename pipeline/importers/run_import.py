"""`saeinterp-pipeline import bundle`: the stages after a bundle, without a model."""

import json
import shutil
from pathlib import Path
from typing import Literal

from pipeline.config import Execution, StoreConfig
from pipeline.importers.bundle import read_config
from pipeline.progress import Reporter
from pipeline.runner import run_stages
from pipeline.stages.bundle_to_store import STORE, stages_from_bundle
from pipeline.stages.publish_store import deliver_store
from pipeline.stages.store_config import BundleSource
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.manifest import Manifest


class ImportRun(Frozen):
    """What the stages of an import are told."""

    bundle: BundleSource
    store: StoreConfig
    work: Path
    execution: Execution = Execution()


def import_bundle(
    bundle: Path,
    out: Path,
    negatives: Literal["drop", "abs"] | None = None,
    seed: int = 0,
    execution: Execution | None = None,
    progress: Reporter | None = None,
) -> Manifest:
    """Make a store of a bundle. Killed, it goes on when called again; its work folder is removed at the end.

    Raises:
        BadInput: `out` exists, or the bundle does not fit (file, row and reason); nothing is published.
    """
    if out.exists():
        raise BadInput(f"{out} exists; a store is never written over. Name another folder or remove it.")
    read_config(bundle)
    work = out.parent / f"{out.name}.work"
    run = ImportRun(
        bundle=BundleSource(path=bundle.resolve()),
        store=StoreConfig(out=out, negatives=negatives, seed=seed),
        work=work,
        execution=execution or Execution(),
    )
    folders = run_stages(stages_from_bundle(after=None), run, progress=progress)
    log = work / "build_log.jsonl"
    entries = (
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    )
    manifest = deliver_store(folders["publish_store"] / STORE, out, entries)
    shutil.rmtree(work, ignore_errors=True)
    return manifest
