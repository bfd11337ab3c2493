"""`saeinterp-pipeline import`: a source becomes a bundle if it is none, then the stages after a bundle."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.config import Execution, StoreConfig
from pipeline.importers.bundle import read_config
from pipeline.importers.convert_source import CONVERT_SOURCE, OPENERS, open_source
from pipeline.importers.source import SourceSection, default_name, refuse_pickles
from pipeline.progress import Reporter, default_reporter
from pipeline.runner import run_stages
from pipeline.stage import RunSections, Stage
from pipeline.stages.bundle_to_store import STORE, stages_from_bundle
from pipeline.stages.publish_store import deliver_store
from pipeline.stages.store_config import BaseSource, BundleSource
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.frozen import Frozen, describe_validation
from saeinterp_mcp.labels.database import copy_labels
from saeinterp_mcp.store.manifest import Manifest, read_manifest

FORMATS = ("bundle", *OPENERS)
Negatives = Literal["drop", "abs"] | None


class ImportRun(Frozen):
    """What the stages of an import are told: of a bundle, or of another source; onto a store, or by itself."""

    bundle: BundleSource | None = None
    source: SourceSection | None = None
    base: BaseSource | None = None
    store: StoreConfig
    work: Path
    execution: Execution = Execution()


def import_source(
    format: str,
    source: Path,
    out: Path,
    negatives: Negatives = None,
    seed: int = 0,
    execution: Execution | None = None,
    progress: Reporter | None = None,
    append_to: Path | None = None,
    straight: bool = False,
    **options: Any,
) -> Manifest:
    """Make a store of somebody's activations. Killed, it goes on when called again.

    Args:
        format: one of `FORMATS`.
        source: the file or folder.
        out: folder of the store.
        negatives: what to do with negative activations; without it they are refused.
        seed: of the examples drawn.
        execution: workers and memory.
        progress: who is told; default a bar on a terminal, else log lines, on stderr.
        append_to: a store whose samples come first; what it holds of activations is linked, not written again.
        straight: leave the activations where they are and read them when a question is asked.
        options: fields of `SourceSection`: name, metadata, vocab, weapon_vocab, families, and more. None is not given.

    Raises:
        BadInput: `out` exists, or the source does not fit; nothing is published.
        BadStore: the source is damaged or unfinished.
    """
    if format not in FORMATS:
        raise BadInput(f"no importer for {format!r}; {nearest(format, FORMATS)}")
    given = {name: value for name, value in options.items() if value not in (None, False)}
    if format == "bundle":
        if given:
            option = "--" + next(iter(given)).replace("_", "-")
            raise BadInput(f"{option} has no meaning for a bundle, which says everything in bundle.yaml")
        if straight:
            raise BadInput("--straight has no meaning for a bundle, which no loader reads; import it")
        return import_bundle(source, out, negatives, seed, execution, progress, append_to)
    must_not_exist(out)
    refuse_pickles(source)
    if append_to is not None:
        given.setdefault("split_seed", read_manifest(append_to).split_seed)
    try:
        section = SourceSection.model_validate(
            {
                "name": default_name(source),
                **given,
                "format": format,
                "path": source,
                "negatives": negatives is not None,
            }
        )
    except ValidationError as error:
        raise BadInput(f"import {format}: {describe_validation(error)}") from error
    open_source(section)
    run = _run_into(out, negatives, seed, execution, append_to).model_copy(update={"source": section})
    if straight:
        from pipeline.importers.run_straight import straight_stages

        if append_to is not None:
            raise BadInput(
                "--straight and --append-to do not go together: activations of two places are not joined"
            )
        return run_to_store(straight_stages(section), run, out, progress)
    stages = stages_from_bundle(after=CONVERT_SOURCE.name, grows=append_to is not None)
    return run_to_store((CONVERT_SOURCE, *stages), run, out, progress)


def import_bundle(
    bundle: Path,
    out: Path,
    negatives: Negatives = None,
    seed: int = 0,
    execution: Execution | None = None,
    progress: Reporter | None = None,
    append_to: Path | None = None,
) -> Manifest:
    """Make a store of a bundle. Killed, it goes on when called again; its work folder is removed at the end.

    With `append_to` the samples of a store come first and keep their numbers and splits; what that store holds of
    activations is linked, not written again, and the new store is its next generation.

    Raises:
        BadInput: `out` exists, or the bundle does not fit (file, row and reason), or does not go with the store;
            nothing is published.
        BadStore: `append_to` is not a whole store.
    """
    must_not_exist(out)
    read_config(bundle)
    run = _run_into(out, negatives, seed, execution, append_to)
    run = run.model_copy(update={"bundle": BundleSource(path=bundle.resolve())})
    return run_to_store(stages_from_bundle(after=None, grows=append_to is not None), run, out, progress)


def _run_into(
    out: Path, negatives: Negatives, seed: int, execution: Execution | None, append_to: Path | None
) -> ImportRun:
    base = None
    if append_to is not None:
        old = read_manifest(append_to)
        if old.straight is not None:
            raise BadInput(
                f"{append_to} is served straight from {old.straight.folder}; import that first, without --straight"
            )
        seed = old.seeds.get("examples", 0)
        base = BaseSource(path=append_to.resolve())
    return ImportRun(
        base=base,
        store=StoreConfig(out=out, negatives=negatives, seed=seed),
        work=out.parent / f"{out.name}.work",
        execution=execution or Execution(),
    )


def must_not_exist(out: Path) -> None:
    """A store is never written over."""
    if out.exists():
        raise BadInput(f"{out} exists; a store is never written over. Name another folder or remove it.")


def run_to_store(
    stages: Sequence[Stage[Any]], run: RunSections, out: Path, progress: Reporter | None
) -> Manifest:
    """Run stages that end with `publish_store`, and give the store its place; the work folder is removed."""
    assert run.work is not None, "a run says where it works"
    folders = run_stages(stages, run, progress=progress)
    log = run.work / "build_log.jsonl"
    entries = (
        [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    )
    manifest = deliver_store(folders["publish_store"] / STORE, out, entries)
    shutil.rmtree(run.work, ignore_errors=True)
    base = getattr(run, "base", None)
    if base is not None and copy_labels(base.path, out):
        (progress or default_reporter()).say(f"the labels of {base.path} go along with {out}")
    return manifest
