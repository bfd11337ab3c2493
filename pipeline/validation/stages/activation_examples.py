"""The prompts in which features fire: of JSON lines, of a table made before, or of the store."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from pipeline.config import Execution
from pipeline.stage import Progress, Stage, Summary
from pipeline.validation.bad_rows import BadRows
from pipeline.validation.config import ActivationExamplesConfig
from pipeline.validation.example_rows import (
    Ints,
    Prompts,
    PromptSpool,
    RowSpool,
    example_frames,
    prompt_frames,
)
from pipeline.validation.examples_from_lines import BAD_PROMPTS, read_lines, read_prompts
from pipeline.validation.examples_from_store import read_store
from pipeline.validation.examples_from_table import read_table
from pipeline.validation.writing import SHARDS, write_blocks, write_sidecar
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.manifest import read_manifest
from saeinterp_mcp.validation.tables import ACTIVATION_EXAMPLES as TABLE
from saeinterp_mcp.validation.tables import PROMPTS

SCRATCH = "scratch"
NO_ROWS: Ints = np.zeros(0, np.int64)


class ActivationExamplesStage(Frozen):
    """What the stage may know."""

    sae_id: str
    compat: bool
    seed: int
    activation_examples: ActivationExamplesConfig
    store: Path | None = Field(exclude=True)


class _Gathered(NamedTuple):
    prompts: Prompts
    left_out: Ints
    """Rows that stood there before."""
    kind: Literal["sequence", "set"]


def _files(config: ActivationExamplesStage) -> dict[str, Path]:
    section = config.activation_examples
    lines, prompts, given = section.activations_input_path, section.prompts_input_path, section.given
    if given is not None:
        if lines is not None or prompts is not None:
            raise BadInput(
                "activation_examples names a table (given) and JSON lines too; leave one of them out"
            )
        return _existing({"activation_examples.parquet": given})
    if lines is not None:
        return _existing(
            {"activations.jsonl": lines, "prompts.json": prompts or lines.with_name("prompts.json")}
        )
    if prompts is not None:
        raise BadInput("activation_examples.prompts_input_path is given without activations_input_path")
    assert config.store is not None, "a stage without any source is left out"
    return _existing({"store/manifest.json": config.store / "manifest.json"})


def _existing(files: dict[str, Path]) -> dict[str, Path]:
    for name, path in files.items():
        if not path.is_file():
            raise BadInput(f"{path} does not exist or is no file; activation_examples needs it ({name})")
    return files


def _run(
    config: ActivationExamplesStage,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    scratch = out / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "prompts").mkdir(parents=True)
    spool, bad = RowSpool(scratch), BadRows(config.activation_examples.bad_files)
    gathered = _gather(config, out, spool, PromptSpool(scratch / "prompts"), bad, execution, progress)
    prompts = gathered.prompts
    write_blocks(PROMPTS, out, prompt_frames(prompts, config.sae_id))
    n = write_blocks(TABLE, out, example_frames(spool, prompts, config.sae_id, gathered.left_out, progress))
    summary = _summary(spool, prompts, gathered.left_out, bad)
    counts = {"kind": gathered.kind, **_counts(spool, gathered.left_out), "n_prompts": len(prompts)}
    settings = config.model_dump(mode="json")
    write_sidecar(PROMPTS, out, config.sae_id, settings, {"kind": gathered.kind}, ())
    write_sidecar(TABLE, out, config.sae_id, settings, counts | {"left_out": summary.dropped}, summary.notes)
    assert n == summary.n_kept, "what is counted is what was written"
    shutil.rmtree(scratch)
    shutil.rmtree(out / SHARDS, ignore_errors=True)
    return summary


def _gather(
    config: ActivationExamplesStage,
    out: Path,
    spool: RowSpool,
    prompts: PromptSpool,
    bad: BadRows,
    execution: Execution,
    progress: Progress,
) -> _Gathered:
    files, section = _files(config), config.activation_examples
    if "activations.jsonl" in files:
        found = read_prompts(files["prompts.json"], prompts, bad)
        again = read_lines(files["activations.jsonl"], found, spool, bad, config.compat)
        return _Gathered(found, again, "sequence")
    if section.given is not None:
        read = read_table(section.given, config.sae_id, prompts, spool, bad, config.compat, progress)
        return _Gathered(*read, "sequence")
    assert config.store is not None, "_files says where examples come from"
    per_feature = section.examples_per_feature
    found = read_store(
        config.store, out, per_feature, config.seed, prompts, spool, execution.workers, progress
    )
    return _Gathered(found, NO_ROWS, read_manifest(config.store).kind)


def _summary(spool: RowSpool, prompts: Prompts, again: Ints, bad: BadRows) -> Summary:
    n_kept = spool.n_rows - len(again)
    dropped = dict(sorted(bad.counts.items()))
    notes = [f"left out, {reason}: {n}" for reason, n in dropped.items()]
    notes += [f"{n} numbers left out, {reason}" for reason, n in sorted(bad.dropped.items()) if n]
    # bad prompts are no rows: told, and not part of the sum
    rows = {reason: n for reason, n in dropped.items() if reason != BAD_PROMPTS}
    return Summary(n_in=n_kept + sum(rows.values()), n_kept=n_kept, dropped=rows, notes=tuple(notes))


def _counts(spool: RowSpool, again: Ints) -> dict[str, int]:
    kept = np.ones(spool.n_rows, bool)
    kept[again] = False
    n_pairs = spool.column("n_pairs")[kept]
    return {
        "n_features": len(np.unique(spool.column("feature")[kept])),
        "n_silent": int((n_pairs == 0).sum()),
        "n_activations": int(n_pairs.sum(dtype=np.int64)),
    }


ACTIVATION_EXAMPLES = Stage(
    name="activation_examples",
    config=ActivationExamplesStage,
    run=_run,
    external=_files,
    modules=(
        "pipeline.importers.json_lines",
        "pipeline.validation.bad_rows",
        "pipeline.validation.example_rows",
        "pipeline.validation.examples_from_lines",
        "pipeline.validation.examples_from_store",
        "pipeline.validation.examples_from_table",
        "pipeline.validation.stages.activation_examples",
        "pipeline.validation.writing",
        "saeinterp_mcp.analysis.ranges",
        "saeinterp_mcp.analysis.sampling",
        "saeinterp_mcp.patterns.choosing",
        "saeinterp_mcp.store.base",
        "saeinterp_mcp.validation.tables",
    ),
)
