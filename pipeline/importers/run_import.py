"""`saeinterp-pipeline import`: a source becomes a bundle if it is none, then the stages after a bundle."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.artifact import Artifact
from pipeline.config import Execution, StoreConfig
from pipeline.fingerprint import FileHashes, fingerprint_of
from pipeline.importers.bundle import read_config
from pipeline.importers.convert_source import CONVERT_SOURCE, OPENERS, open_source
from pipeline.importers.dashboard_source import after_dashboard
from pipeline.importers.delphi_source import after_delphi
from pipeline.importers.neuronpedia_source import after_neuronpedia
from pipeline.importers.source import Format, SourceSection, default_name, refuse_pickles
from pipeline.progress import Reporter, default_reporter
from pipeline.runner import run_stages
from pipeline.stage import RunSections, Stage
from pipeline.stages.bundle_to_store import STORE, stages_from_bundle
from pipeline.stages.publish_store import BUILD_LOG, deliver_store
from pipeline.stages.store_config import BaseSource, BundleSource
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.frozen import Frozen, describe_validation
from saeinterp_mcp.labels.database import copy_labels
from saeinterp_mcp.store.manifest import MANIFEST, Manifest, read_manifest

FORMATS = ("bundle", *OPENERS)
AFTERWARDS: dict[Format, Callable[[SourceSection, Path], tuple[str, ...]]] = {
    "delphi": after_delphi,
    "neuronpedia": after_neuronpedia,
    "sae-dashboard": after_dashboard,
}
"""What goes beside a store that was imported: drafts of labels and tables; what to tell of it. Safe to call again."""
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
    run = _run_into(out, negatives, seed, execution, append_to).model_copy(update={"source": section})
    stages: tuple[Stage[Any], ...] = ()
    if straight:
        from pipeline.importers.run_straight import straight_stages

        if append_to is not None:
            raise BadInput(
                "--straight and --append-to do not go together: activations of two places are not joined"
            )
        stages = straight_stages(section)
    else:
        stages = (CONVERT_SOURCE, *stages_from_bundle(CONVERT_SOURCE.name, grows=append_to is not None))
    reporter = progress or default_reporter()
    check_place(out)
    if straight:  # its activations may change where they are
        must_not_exist(out)
    open_source(section)
    manifest = already_there(stages, run, out, reporter) or run_to_store(stages, run, out, progress)
    for line in AFTERWARDS[section.format](section, out) if section.format in AFTERWARDS else ():
        reporter.say(line)
    return manifest


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
    check_place(out)
    read_config(bundle)
    run = _run_into(out, negatives, seed, execution, append_to)
    run = run.model_copy(update={"bundle": BundleSource(path=bundle.resolve())})
    stages = stages_from_bundle(after=None, grows=append_to is not None)
    reporter = progress or default_reporter()
    return already_there(stages, run, out, reporter) or run_to_store(stages, run, out, progress)


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


def check_place(out: Path) -> None:
    """Refuse a place where something else than a store is."""
    if out.exists() and not (out / MANIFEST).is_file():
        must_not_exist(out)


def already_there(
    stages: Sequence[Stage[Any]], run: ImportRun, out: Path, reporter: Reporter
) -> Manifest | None:
    """The store that is there and was made of the same content with the same options; None where nothing is.

    Raises:
        BadInput: another store is there.
    """
    if not out.exists():
        return None
    known = read_content(out)
    if known is None or known != content_of(stages, run):
        must_not_exist(out)
    reporter.say(f"nothing to do: {out} holds this already")
    return read_manifest(out)


def content_of(stages: Sequence[Stage[Any]], run: RunSections) -> str:
    """Names what a store is made of: the options and files of all stages, and not our code."""
    hashes = FileHashes()
    made_of = []
    for stage in stages:
        config = stage.config_of(run)
        files = hashes.of_inputs(stage.external(config))
        made_of.append([stage.name, config.model_dump(mode="json"), files])
    return fingerprint_of(made_of)


def read_content(store: Path) -> str | None:
    """What `content_of` was when a store was made; None where nobody wrote it down."""
    try:
        log = json.loads((store / BUILD_LOG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    said = log.get("content") if isinstance(log, dict) else None
    return said if isinstance(said, str) else None


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
    # as it was when each stage began: a source may have changed since
    identities = [Artifact.read(folders[stage.name]).identity for stage in stages]
    content = fingerprint_of([[one.stage, one.config, one.files] for one in identities])
    manifest = deliver_store(folders["publish_store"] / STORE, out, entries, content)
    shutil.rmtree(run.work, ignore_errors=True)
    base = getattr(run, "base", None)
    if base is not None and copy_labels(base.path, out):
        (progress or default_reporter()).say(f"the labels of {base.path} go along with {out}")
    return manifest
