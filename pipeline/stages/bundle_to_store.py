"""The stages from a bundle to a store, in order; for a build, and for `import bundle`."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.stages.choose_examples import choose_examples
from pipeline.stages.find_neighbours import find_neighbours
from pipeline.stages.publish_store import publish_store
from pipeline.stages.store_config import ImportSection, StoreSection, bundle_files, open_draft
from pipeline.stages.summarise_features import summarise_features
from pipeline.stages.trace_outputs import trace_outputs
from pipeline.stages.write_postings import DEFAULT_MEMORY, write_postings
from saeinterp_mcp.store.zarr_store import ZarrWriter

STORE = "store"
SUMMARISED = ("summarise_features", "choose_examples", "find_neighbours")
MODULES = (
    "pipeline.importers.bundle",
    "pipeline.importers.bundle_activations",
    "pipeline.row_order",
    "pipeline.spool",
    "pipeline.stages.write_postings",
    "pipeline.stages.trace_outputs",
    "saeinterp_mcp.analysis.examples",
    "saeinterp_mcp.analysis.firing",
    "saeinterp_mcp.analysis.moments",
    "saeinterp_mcp.analysis.sampling",
    "saeinterp_mcp.analysis.splits",
    "saeinterp_mcp.store.base",
    "saeinterp_mcp.store.layout",
    "saeinterp_mcp.store.manifest",
    "saeinterp_mcp.store.zarr_store",
)


def _bundle(config: StoreSection, inputs: Mapping[str, Path]) -> Path:
    return config.bundle.path if isinstance(config, ImportSection) else inputs["write_bundle"]


def _emptied(out: Path) -> Path:
    """What a killed run left of these stages is cheaper to make again than to check."""
    for entry in out.iterdir():
        if entry.name != "partial.json":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return out


def _write_postings(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    memory = DEFAULT_MEMORY if execution.max_memory_gb is None else int(execution.max_memory_gb * 2**30 / 2)
    manifest = write_postings(
        _bundle(config, inputs), _emptied(out), config.store.negatives, memory, progress
    )
    lost = {
        k: v for k, v in manifest.dropped.items() if k not in ("repeated_token", "negative_made_positive")
    }
    notes = [f"{manifest.n_samples} samples, {manifest.n_rows} counted positions, {manifest.n_units} units"]
    notes += [str(c["note"]) for c in manifest.checks if c.get("name") == "import"]
    n = manifest.n_activations
    return Summary(n_in=n + sum(lost.values()), n_kept=n, dropped=lost, notes=tuple(notes))


def _trace_outputs(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    trace_outputs(_bundle(config, inputs), ZarrWriter(_emptied(out)), progress)
    n = open_draft(inputs["write_postings"]).manifest.n_features
    return Summary(n_in=n, n_kept=n)


def _summarise_features(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    store = open_draft(inputs["write_postings"])
    summarise_features(store, ZarrWriter(_emptied(out)), progress)
    return Summary(n_in=store.manifest.n_features, n_kept=store.manifest.n_features)


def _choose_examples(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    store = open_draft(inputs["write_postings"], inputs["summarise_features"])
    choose_examples(store, ZarrWriter(_emptied(out)), config.store.seed, progress)
    return Summary(n_in=store.manifest.n_features, n_kept=store.manifest.n_features)


def _find_neighbours(
    config: StoreSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    store = open_draft(inputs["write_postings"], inputs["trace_outputs"])
    find_neighbours(store, ZarrWriter(_emptied(out)), config.store.seed, progress)
    return Summary(n_in=store.manifest.n_features, n_kept=store.manifest.n_features)


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


def stages_from_bundle(after: str | None) -> tuple[Stage[Any], ...]:
    """The stages, reading the bundle that stage `after` leaves, or one from outside the run when it is None."""
    source: dict[str, Any] = (
        {"config": ImportSection, "external": bundle_files} if after is None else {"config": StoreSection}
    )
    bundle = () if after is None else (after,)

    def own(module: str) -> tuple[str, ...]:
        return (*MODULES, "pipeline.stages.bundle_to_store", f"pipeline.stages.{module}")

    return (
        Stage(
            name="write_postings", run=_write_postings, inputs=bundle, modules=own("write_postings"), **source
        ),
        Stage(
            name="trace_outputs",
            run=_trace_outputs,
            inputs=(*bundle, "write_postings"),
            modules=own("trace_outputs"),
            **source,
        ),
        Stage(
            name="summarise_features",
            config=StoreSection,
            run=_summarise_features,
            inputs=("write_postings",),
            modules=own("summarise_features"),
        ),
        Stage(
            name="choose_examples",
            config=StoreSection,
            run=_choose_examples,
            inputs=("write_postings", "summarise_features"),
            modules=own("choose_examples"),
        ),
        Stage(
            name="find_neighbours",
            config=StoreSection,
            run=_find_neighbours,
            inputs=("write_postings", "trace_outputs"),
            modules=own("find_neighbours"),
        ),
        Stage(
            name="publish_store",
            config=StoreSection,
            run=_publish_store,
            inputs=("write_postings", "trace_outputs", *SUMMARISED),
            modules=own("publish_store"),
        ),
    )
