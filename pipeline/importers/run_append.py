"""`saeinterp-pipeline append` and `compact`: the next generation of a store, beside the one it comes from."""

from pathlib import Path
from typing import Any, Literal

from pipeline.config import Execution, StoreConfig
from pipeline.importers.bundle import read_config
from pipeline.importers.run_import import must_not_exist, run_to_store
from pipeline.progress import Reporter
from pipeline.stage import Progress, Stage, Summary
from pipeline.stages.bundle_to_store import own_modules, publish_stage, stages_from_bundle
from pipeline.stages.compact_postings import compact_postings
from pipeline.stages.store_config import (
    AppendSection,
    BaseSource,
    BundleSource,
    StoreSection,
    base_files,
)
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.manifest import Manifest, read_manifest


class AppendRun(Frozen):
    """What the stages of an append are told."""

    bundle: BundleSource
    base: BaseSource
    store: StoreConfig
    work: Path
    execution: Execution = Execution()


class CompactSection(StoreSection):
    """What the first stage of a compaction sees."""

    base: BaseSource


class CompactRun(Frozen):
    """What the stages of a compaction are told."""

    base: BaseSource
    store: StoreConfig
    work: Path
    execution: Execution = Execution()


def append_bundle(
    base: Path,
    bundle: Path,
    out: Path,
    negatives: Literal["drop", "abs"] | None = None,
    execution: Execution | None = None,
    progress: Reporter | None = None,
) -> Manifest:
    """The samples of a store and those of a bundle as a new store. What the old one holds of activations is linked.

    Sample ids and splits of the old samples stay; the new ones are numbered after them.

    Raises:
        BadInput: `out` exists, or the bundle does not fit or does not go with the store; nothing is published.
        BadStore: `base` is not a whole store.
    """
    must_not_exist(out)
    old = read_manifest(base)
    read_config(bundle)
    run = AppendRun(
        bundle=BundleSource(path=bundle.resolve()),
        base=BaseSource(path=base.resolve()),
        store=StoreConfig(out=out, negatives=negatives, seed=old.seeds.get("examples", 0)),
        work=out.parent / f"{out.name}.work",
        execution=execution or Execution(),
    )
    return run_to_store(stages_from_bundle(after=None, config=AppendSection), run, out, progress)


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
