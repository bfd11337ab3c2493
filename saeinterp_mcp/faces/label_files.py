"""The commands about files: `label export`, `label import`, `note export`. Hooked into the command line by `cli`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from saeinterp_mcp.analysis.text import visible
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.base import Store

if TYPE_CHECKING:
    from saeinterp_mcp.labels.exchange.records import Counts, ImportReport, Target

FormatName = Literal["jsonl", "csv", "consolidated", "dashboard", "neuronpedia", "clerp"]
FormatOption = Annotated[
    FormatName, typer.Option("--format", help="jsonl is our own, made for review in git")
]
GuessedFormatOption = Annotated[
    FormatName | None, typer.Option("--format", help="Default: by the file's name and content")
]
OutOption = Annotated[Path | None, typer.Option("--out", help="File, or folder; default: print it")]
FileArgument = Annotated[Path, typer.Argument(help="File to read", show_default=False)]
FeatureArgument = Annotated[int, typer.Argument(help="Feature index", show_default=False)]
StoreOption = Annotated[
    str | None, typer.Option("--store", help="Store: PATH, NAME=PATH, or a NAME among those served")
]
LabelsOption = Annotated[
    Path | None, typer.Option("--labels", metavar="FILE", help="Labels file; default: beside the store")
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model-id", help="Neuronpedia's model, or the model of consolidated_<model>.json"),
]
LayerOption = Annotated[
    str | None, typer.Option("--layer", help="Neuronpedia's source (12-res-16k), or the layer in a graph")
]
GraphOption = Annotated[Path | None, typer.Option("--graph", help="circuit-tracer graph to fill with names")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen")]
ConflictOption = Annotated[
    Literal["both", "keep", "theirs"],
    typer.Option(
        "--on-conflict", help="Changed here and there: keep both labels, keep ours, or take theirs as newest"
    ),
]
BadOption = Annotated[
    Literal["stop", "skip"],
    typer.Option("--bad", help="A line that is wrong: import nothing, or leave it out"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The report as JSON")]
LISTED = 20
"""Conflicts, demotions and skipped lines that are printed one by one; all that are kept are in --json."""


def label_export(
    format_name: FormatOption = "jsonl",
    out: OutOption = None,
    graph: GraphOption = None,
    model_id: ModelOption = None,
    layer: LayerOption = None,
    store: StoreOption = None,
    labels: LabelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write labels into a file: jsonl (for git), csv, consolidated, neuronpedia, or into a circuit-tracer graph."""
    from saeinterp_mcp.labels.exchange.exporting import export_file, pieces
    from saeinterp_mcp.labels.exchange.formats import format_named
    from saeinterp_mcp.labels.exchange.records import Options

    target, chosen = target_of(_store(store, labels)), format_named(format_name)
    options = Options(model_id=model_id, layer=layer, graph=graph)
    if out is not None:
        report = export_file(target, chosen, out, options)
        if as_json:
            _print_json(report.model_dump(mode="json"))
        else:
            _print(f"{report.file}: {'; '.join(report.said)} ({report.n_bytes} bytes).")
        return
    if as_json:
        raise BadInput("--json reports about a file that is written; name it with --out")
    sys.stdout.buffer.writelines(pieces(target, chosen, options))
    sys.stdout.buffer.flush()


def label_import(
    file: FileArgument,
    format_name: GuessedFormatOption = None,
    dry_run: DryRunOption = False,
    on_conflict: ConflictOption = "both",
    bad: BadOption = "stop",
    model_id: ModelOption = None,
    layer: LayerOption = None,
    store: StoreOption = None,
    labels: LabelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge a label file into the store's labels: all of it or nothing, and twice is as once."""
    from saeinterp_mcp.labels.exchange.formats import format_named, format_of
    from saeinterp_mcp.labels.exchange.importing import Import
    from saeinterp_mcp.labels.exchange.records import Options

    target = target_of(_store(store, labels))
    chosen = format_named(format_name) if format_name else format_of(file)
    options = Options(model_id=model_id, layer=layer)
    importing = Import(file, chosen.name, target, chosen.read_source(file), on_conflict, bad)
    report = importing.run(lambda: chosen.read(file, target, options), dry_run)
    if as_json:
        _print_json(_shown(report.model_dump(mode="json")))
    else:
        _print("\n".join(_in_words(report)))


def note_export(
    feature: FeatureArgument,
    out: OutOption = None,
    store: StoreOption = None,
    labels: LabelsOption = None,
) -> None:
    """A feature's notes and labels as a research log, in Markdown."""
    from saeinterp_mcp.labels.exchange.files import write_whole
    from saeinterp_mcp.labels.research_log import research_log

    chosen = _store(store, labels)
    chosen.check_feature(feature)
    log = research_log(chosen.need_labels, chosen.name, chosen.lineage, feature)
    if out is None:
        _print(log.rstrip("\n"))
        return
    path = out / f"feature_{feature}.md" if out.is_dir() else out
    n_bytes = write_whole(path, [log.encode("utf-8")])
    _print(f"{path}: the log of feature {feature} ({n_bytes} bytes).")


def target_of(store: Store) -> "Target":
    """A store as its labels' files see it."""
    from saeinterp_mcp.labels.exchange.records import Target
    from saeinterp_mcp.operations.features_search import importance_percentile
    from saeinterp_mcp.operations.imported_rule import normal_rule

    return Target(
        name=store.name,
        lineage=store.lineage,
        fingerprint=store.fingerprint,
        n_features=store.manifest.n_features,
        database=store.need_labels,
        normal_rule=lambda label: normal_rule(store, label),
        importance=lambda feature: importance_percentile(store, feature),
        check_call=_check_call,
    )


def _check_call(operation: str, arguments: Mapping[str, Any]) -> None:
    from saeinterp_mcp.faces.arguments import entries

    entry = next((e for e in entries() if e.name == operation and e.operation.is_evidence), None)
    if entry is None:
        raise BadInput(f"{operation[:40]!r} is no operation that evidence comes from")
    entry.check(arguments)


def _store(location: str | None, labels: Path | None) -> Store:
    from saeinterp_mcp.faces.cli import open_stores  # which hooks in what is here

    stores, name = open_stores([location] if location else [], labels)
    return stores.pick(name)


def _print(text: str) -> None:
    sys.stdout.buffer.write(text.encode("utf-8") + b"\n")


def _print_json(body: Any) -> None:
    _print(json.dumps(body, ensure_ascii=False))


def _shown(value: Any) -> Any:
    """Strings of a file as they may be shown."""
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_shown(part) for part in value]
    return visible(value) if isinstance(value, str) else value


def _in_words(report: "ImportReport") -> list[str]:
    """The report as lines."""
    told = [
        f"{'Would import' if report.dry_run else 'Imported'} {report.file} ({report.format}) into {report.labels_file}:"
    ]
    told += [
        _counted("labels", report.labels),
        *([_counted("notes", report.notes)] if any(report.notes.model_dump().values()) else []),
    ]
    if report.n_tests or report.n_answers:
        told.append(
            f"  {report.n_tests} held-out tests and {report.n_answers} recorded calls that were not here"
        )
    told += [f"Warning: {warning}" for warning in report.warnings]
    for name, entries, n in (
        ("conflicts", [_conflict_in_words(c) for c in report.conflicts], report.n_conflicts),
        (
            "came in as drafts, though they said supported",
            [f"{d.label_id} of feature {d.feature} ({d.where}): {d.why}" for d in report.demoted],
            report.n_demoted,
        ),
        ("left out", [f"{s.where}: {s.why}" for s in report.skipped], report.n_skipped),
    ):
        if n:
            told += [f"{n} {name}:", *(f"  {entry}" for entry in entries[:LISTED])]
            told += [f"  ... and {n - LISTED} more"] if n > LISTED else []
    if report.dry_run:
        told.append("Nothing was written (--dry-run).")
    return [visible(line) for line in told]


def _counted(name: str, counts: "Counts") -> str:
    retired = f" ({counts.retired} of them retired)" if counts.retired else ""
    return f"  {name}: {counts.added} added, {counts.revised} revised{retired}, {counts.unchanged} unchanged"


def _conflict_in_words(conflict: Any) -> str:
    versions = [json.dumps(version, ensure_ascii=False) for version in (conflict.ours, conflict.theirs)]
    return (
        f"{conflict.id} of feature {conflict.feature} ({conflict.where}): ours {versions[0]}; theirs {versions[1]}; "
        f"{conflict.result}"
    )
