"""The stages from a bundle to a store, in order; for a build, and for `import bundle`."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Execution
from pipeline.linking import link_tree
from pipeline.stage import Progress, Stage, Summary
from pipeline.stages.append_samples import append_samples
from pipeline.stages.choose_examples import choose_examples
from pipeline.stages.find_neighbours import find_neighbours
from pipeline.stages.order_samples import order_samples
from pipeline.stages.publish_store import publish_store
from pipeline.stages.store_config import (
    AppendSection,
    GrowSection,
    ImportSection,
    StoreSection,
    append_files,
    bundle_files,
    grow_files,
    open_draft,
)
from pipeline.stages.sum_labels import sum_labels
from pipeline.stages.summarise_features import summarise_features
from pipeline.stages.trace_outputs import trace_outputs
from pipeline.stages.write_postings import write_postings
from saeinterp_mcp.store.zarr_writer import ZarrWriter

STORE = "store"
BUNDLE_STAGES = ("write_bundle", "write_set_bundle", "convert_source")
"""Those that leave a bundle: of a build of either kind, and of an import of another format."""
SUMMARISED = ("summarise_features", "sum_labels", "choose_examples", "find_neighbours")
MODULES = (
    "pipeline.importers.bundle",
    "pipeline.importers.bundle_activations",
    "pipeline.parallel",
    "pipeline.sorting",
    "pipeline.stages.feature_blocks",
    "pipeline.stages.order_samples",
    "pipeline.stages.write_postings",
    "pipeline.stages.trace_outputs",
    "saeinterp_mcp.analysis.examples",
    "saeinterp_mcp.analysis.firing",
    "saeinterp_mcp.analysis.label_sums",
    "saeinterp_mcp.analysis.moments",
    "saeinterp_mcp.analysis.near_misses",
    "saeinterp_mcp.analysis.ranges",
    "saeinterp_mcp.analysis.sampling",
    "saeinterp_mcp.analysis.splits",
    "saeinterp_mcp.analysis.summaries",
    "saeinterp_mcp.store.base",
    "saeinterp_mcp.store.directory",
    "saeinterp_mcp.store.directory_tables",
    "saeinterp_mcp.store.layout",
    "saeinterp_mcp.store.manifest",
    "saeinterp_mcp.store.raw_arrays",
    "saeinterp_mcp.store.sample_table",
    "saeinterp_mcp.store.zarr_store",
    "saeinterp_mcp.store.zarr_writer",
)


def _bundle(config: StoreSection, inputs: Mapping[str, Path]) -> Path:
    if isinstance(config, ImportSection):
        return config.bundle.path
    return next(inputs[stage] for stage in BUNDLE_STAGES if stage in inputs)


def _base(config: StoreSection) -> Path | None:
    return config.base.path if isinstance(config, GrowSection) else None


def _emptied(out: Path) -> Path:
    """What a killed run left of these stages is cheaper to make again than to check."""
    for entry in out.iterdir():
        if entry.name != "partial.json":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return out


def _order_samples(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    bundle, base = _bundle(config, inputs), _base(config)
    _emptied(out)
    manifest = order_samples(bundle, out) if base is None else append_samples(base, bundle, out)
    notes = [f"{manifest.n_samples} samples, {manifest.n_rows} counted positions, {manifest.n_units} units"]
    notes += [str(c["note"]) for c in manifest.checks if c.get("name") == "import"]
    return Summary(n_in=manifest.n_samples, n_kept=manifest.n_samples, notes=tuple(notes))


def _write_postings(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    bundle, placed = _bundle(config, inputs), inputs["order_samples"]
    manifest = write_postings(
        bundle, placed, out, config.store.negatives, execution, progress, base=_base(config)
    )
    lost = {
        k: v for k, v in manifest.dropped.items() if k not in ("repeated_token", "negative_made_positive")
    }
    n = manifest.n_activations
    return Summary(n_in=n + sum(lost.values()), n_kept=n, dropped=lost)


def _trace_outputs(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    base = _base(config)
    if base is None:
        trace_outputs(_bundle(config, inputs), ZarrWriter(_emptied(out)), progress)
    else:
        link_tree(base, _emptied(out), _is_output)
    n = open_draft(inputs["order_samples"]).manifest.n_features
    return Summary(n_in=n, n_kept=n)


def _is_output(name: Path) -> bool:
    """Files of a store that `trace_outputs` writes."""
    tables = ("tables/outputs.parquet", "tables/decoder_influence.parquet")
    return name.parts[0] in ("weights", "outputs") or name.as_posix() in tables


def _summarise_features(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    folders = (inputs["write_postings"], inputs["order_samples"])
    summarise_features(folders, _emptied(out), execution, progress)
    n = open_draft(*folders).manifest.n_features
    return Summary(n_in=n, n_kept=n)


def _sum_labels(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    folders = (inputs["write_postings"], inputs["order_samples"], inputs["summarise_features"])
    n_kept = sum_labels(folders, _emptied(out), execution, progress)
    return Summary(n_in=open_draft(*folders).manifest.n_features, n_kept=n_kept)


def _choose_examples(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    folders = (inputs["write_postings"], inputs["order_samples"], inputs["summarise_features"])
    choose_examples(folders, _emptied(out), config.store.seed, execution, progress)
    n = open_draft(*folders).manifest.n_features
    return Summary(n_in=n, n_kept=n)


def _find_neighbours(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    folders = (inputs["write_postings"], inputs["order_samples"], inputs["trace_outputs"])
    find_neighbours(folders, _emptied(out), config.store.seed, execution, progress)
    n = open_draft(*folders).manifest.n_features
    return Summary(n_in=n, n_kept=n)


def _publish_store(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    _emptied(out)
    made_by = {
        name: json.loads((folder / "artifact.json").read_text(encoding="utf-8"))["fingerprint"]
        for name, folder in inputs.items()
    }
    seeds = {"examples": config.store.seed, "random_pairs": config.store.seed}
    manifest = publish_store(tuple(inputs.values()), out / STORE, {"stages": made_by}, seeds)
    return Summary(
        n_in=len(manifest.files), n_kept=len(manifest.files), notes=(f"store {manifest.fingerprint()}",)
    )


def own_modules(*modules: str) -> tuple[str, ...]:
    """The modules that decide what a stage of this file leaves."""
    return (*MODULES, "pipeline.stages.bundle_to_store", *(f"pipeline.stages.{m}" for m in modules))


def publish_stage(inputs: tuple[str, ...]) -> Stage[Any]:
    """The last stage: prepared folders to a store; the first holds the draft of the manifest."""
    return Stage(
        name="publish_store",
        config=StoreSection,
        run=_publish_store,
        inputs=inputs,
        modules=own_modules("publish_store"),
    )


def stages_from_bundle(after: str | None, grows: bool = False) -> tuple[Stage[Any], ...]:
    """The stages that make a store of a bundle.

    Args:
        after: the stage that leaves the bundle; None when it comes from outside the run.
        grows: the samples are added to those of a store.
    """
    source: dict[str, Any] = (
        {"config": GrowSection, "external": grow_files} if grows else {"config": StoreSection}
    )
    if after is None:
        source = {"config": ImportSection, "external": bundle_files}
        if grows:
            source = {"config": AppendSection, "external": append_files}
    bundle = () if after is None else (after,)
    own = own_modules
    return (
        Stage(
            name="order_samples",
            run=_order_samples,
            inputs=bundle,
            modules=own("order_samples", "append_samples"),
            **source,
        ),
        Stage(
            name="write_postings",
            run=_write_postings,
            inputs=(*bundle, "order_samples"),
            modules=own("write_postings"),
            **source,
        ),
        Stage(
            name="trace_outputs",
            run=_trace_outputs,
            inputs=(*bundle, "order_samples"),
            modules=own("trace_outputs"),
            **source,
        ),
        Stage(
            name="summarise_features",
            config=StoreSection,
            run=_summarise_features,
            inputs=("write_postings", "order_samples"),
            modules=own("summarise_features"),
        ),
        Stage(
            name="sum_labels",
            config=StoreSection,
            run=_sum_labels,
            inputs=("write_postings", "order_samples", "summarise_features"),
            modules=(
                *own("sum_labels"),
                "saeinterp_mcp.analysis.distributions",
                "saeinterp_mcp.analysis.effects",
                "saeinterp_mcp.analysis.intervals",
                "saeinterp_mcp.store.labels",
                "saeinterp_mcp.store.sums",
            ),
        ),
        Stage(
            name="choose_examples",
            config=StoreSection,
            run=_choose_examples,
            inputs=("write_postings", "order_samples", "summarise_features"),
            modules=own("choose_examples"),
        ),
        Stage(
            name="find_neighbours",
            config=StoreSection,
            run=_find_neighbours,
            inputs=("write_postings", "order_samples", "trace_outputs"),
            modules=own("find_neighbours"),
        ),
        publish_stage(("write_postings", "order_samples", "trace_outputs", *SUMMARISED)),
    )
