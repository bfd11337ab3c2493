"""`saeinterp-pipeline compact`: a store whose segments are one again, beside the one it comes from."""

from pathlib import Path
from typing import Any

from pipeline.config import Execution, StoreConfig
from pipeline.importers.run_import import must_not_exist, run_to_store
from pipeline.progress import Reporter
from pipeline.stage import Progress, Stage, Summary
from pipeline.stages.bundle_to_store import own_modules, publish_stage
from pipeline.stages.compact_postings import compact_postings
from pipeline.stages.store_config import BaseSource, StoreSection, base_files
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.manifest import Manifest, read_manifest


class CompactSection(StoreSection):
    """What the first stage of a compaction sees."""

    base: BaseSource


class CompactRun(Frozen):
    """What the stages of a compaction are told."""

    base: BaseSource
    store: StoreConfig
    work: Path
    execution: Execution = Execution()


def compact_store(
    base: Path, out: Path, execution: Execution | None = None, progress: Reporter | None = None
) -> Manifest:
    """A store with its segments sorted into one.

    Raises:
        BadInput: `out` exists, or the store has one segment.
        BadStore: `base` is not a whole store.
    """
    must_not_exist(out)
    old = read_manifest(base)
    if len(old.segments) == 1:
        raise BadInput(f"{base} has one segment; there is nothing to compact")
    run = CompactRun(
        base=BaseSource(path=base.resolve()),
        store=StoreConfig(out=out, seed=old.seeds.get("examples", 0)),
        work=out.parent / f"{out.name}.work",
        execution=execution or Execution(),
    )
    stage: Stage[Any] = Stage(
        name="compact_postings",
        config=CompactSection,
        run=_compact,
        modules=own_modules("compact_postings", "append_samples"),
        external=lambda config: base_files(config.base),
    )
    return run_to_store((stage, publish_stage(("compact_postings",))), run, out, progress)


def _compact(
    config: CompactSection, inputs: Any, out: Path, progress: Progress, execution: Execution
) -> Summary:
    manifest = compact_postings(config.base.path, out, execution, progress)
    return Summary(n_in=manifest.n_activations, n_kept=manifest.n_activations)
