"""The stage `convert_source`: other people's formats become a bundle, read in pieces by several workers.

Each piece is one file of the bundle, written whole and then renamed; a killed conversion keeps those that are done.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.config import Execution
from pipeline.fingerprint import write_whole
from pipeline.importers.dashboard_source import open_dashboard
from pipeline.importers.delphi_source import open_delphi
from pipeline.importers.describe import Described, Names, describe_samples, tables_of, write_bare_samples
from pipeline.importers.embeddings import check_reconstruction
from pipeline.importers.examples_source import open_examples
from pipeline.importers.hdf5_source import open_hdf5
from pipeline.importers.jsonl_source import open_jsonl
from pipeline.importers.neuron_source import open_neurons
from pipeline.importers.neuronpedia_source import open_neuronpedia
from pipeline.importers.numpy_sources import open_arrays
from pipeline.importers.pieces import Part, write_part
from pipeline.importers.source import Format, Source, SourceSection, all_files, refuse_pickles
from pipeline.importers.token_families import read_families
from pipeline.importers.weights import outputs_of
from pipeline.importers.zarr_sources import open_batches, open_transposed
from pipeline.parallel import run_tasks
from pipeline.stage import Progress, Stage, Summary
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.loaders.metadata import count_rows, metadata_files, read_vocabulary

OPENERS: dict[Format, Callable[[SourceSection], Source]] = {
    "batch-zarr": open_batches,
    "transposed-zarr": open_transposed,
    "neuron-acts": open_neurons,
    "npz": open_arrays,
    "hdf5": open_hdf5,
    "examples": open_examples,
    "delphi": open_delphi,
    "activations-jsonl": open_jsonl,
    "neuronpedia": open_neuronpedia,
    "sae-dashboard": open_dashboard,
}
MOST_ROWS = 2**32 - 2
FIRST_ROWS = "first_rows.npy"
BESIDE = ("vocab", "weapon_vocab", "families", "decoder", "unembedding", "output_tokens")


class ConvertSection(Frozen):
    """What the stage sees of an import."""

    source: SourceSection


def open_source(section: SourceSection) -> Source:
    """Open a source and check its extent against the tables that go with it.

    Raises:
        BadInput: an option or file that does not fit.
        BadStore: a damaged or unfinished source, or tables of another number of rows.
    """
    refuse_pickles(section.path, *(getattr(section, name) for name in ("metadata", *BESIDE)))
    if not section.path.exists():
        raise BadInput(f"{section.path} does not exist")
    source = OPENERS[section.format](section)
    for what, given, found in (
        ("features", section.n_features, source.n_features),
        ("rows", section.n_samples, source.n_rows),
    ):
        if given is not None and given != found:
            raise BadInput(f"{section.path} has {found} {what}, not {given}")
    if not 0 < source.n_rows <= MOST_ROWS or not source.n_features:
        raise BadInput(f"{section.path} holds {source.n_rows} rows of {source.n_features} features")
    tables = metadata_of(section, source)
    if tables and (n := count_rows(tables)) != source.n_rows:
        raise BadStore(
            section.metadata or section.path,
            f"{source.n_rows} rows of metadata, as the activations have",
            f"{n}",
            "Give the tables that were written with these activations.",
        )
    return source


def metadata_of(section: SourceSection, source: Source) -> list[Path]:
    """The tables of metadata: those given, else the source's own."""
    if section.metadata is None:
        return list(source.metadata)
    if source.metadata or source.tables is not None:
        raise BadInput(f"{section.format} has metadata of its own; leave --metadata out")
    return metadata_files(section.metadata)


def external(section: ConvertSection) -> dict[str, Path]:
    """Every file that is read; their contents are hashed."""
    source = open_source(section.source)
    files = {f"source/{name}": path for name, path in source.files.items()}
    if section.source.metadata is not None:
        files |= {f"metadata/{path.name}": path for path in metadata_files(section.source.metadata)}
    for name in BESIDE:
        path = getattr(section.source, name)
        if path is not None:
            files |= all_files(name, path)
    return files


def run(
    section: ConvertSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    """Write the bundle."""
    source = open_source(section.source)
    notes = describe_source(section.source, source, out)
    first_rows = out / FIRST_ROWS if (out / FIRST_ROWS).is_file() else None
    (out / "activations").mkdir(exist_ok=True)
    parts = [
        Part(piece, out / "activations" / f"part-{i:05d}.parquet", first_rows)
        for i, piece in enumerate(source.pieces)
    ]
    n = sum(run_tasks(write_part, parts, execution.workers, progress))
    if source.n_activations is not None and n != source.n_activations:
        raise BadStore(
            section.source.path,
            f"{source.n_activations} activations, as its record says",
            f"{n}",
            "Chunks were lost or changed after the conversion; convert again.",
        )
    return Summary(n_in=n, n_kept=n, notes=tuple(notes))


def describe_source(section: SourceSection, source: Source, out: Path) -> list[str]:
    """Write everything of the bundle but its activations; what a reader must know of it."""
    described = _describe(section, source, out)
    (out / FIRST_ROWS).unlink(missing_ok=True)
    if described.first_rows is not None:
        np.save(out / FIRST_ROWS, described.first_rows)
    notes = [*source.notes, *described.notes]
    checks = []
    if source.embeddings is not None:
        check, note = check_reconstruction(source.embeddings, source.n_rows)
        checks += [check.model_dump(mode="json")] if check is not None else []
        notes.append(note)
    _write_config(section, source, described, checks, notes, out)
    return notes


def _describe(section: SourceSection, source: Source, out: Path) -> Described:
    files = metadata_of(section, source)
    tables = source.tables or (tables_of(files) if files else None)
    vocab, weapons = (
        None if path is None else read_vocabulary(path) for path in (section.vocab, section.weapon_vocab)
    )
    families = None if section.families is None else read_families(section.families)
    if tables is None:
        for name, given in (("vocab", vocab), ("weapon_vocab", weapons), ("families", families)):
            if given is not None:
                option = "--" + name.replace("_", "-")
                raise BadInput(f"{option} names what only metadata hold; give --metadata DIR too")
        return write_bare_samples(source.n_rows, out)
    if vocab is None and source.token_names is not None:
        vocab = source.token_names()
    return describe_samples(tables, Names(vocab, weapons), families, out)


def _write_config(
    section: SourceSection,
    source: Source,
    described: Described,
    checks: list[dict[str, Any]],
    notes: list[str],
    out: Path,
) -> None:
    config: dict[str, Any] = {
        "name": section.name,
        "kind": described.kind,
        "n_features": source.n_features,
        "families": described.families,
        "groups": described.groups,
        "excluded_positions": described.excluded_positions,
        "dataset": {
            "name": section.name,
            "format": section.format,
            "n_rows": source.n_rows,
            **source.provenance,
        },
        **{name: said for name in ("model", "sae") if (said := getattr(source, name)) is not None},
        "checks": [*checks, *({"name": "import", "passed": None, "note": note} for note in notes)],
        "split_seed": section.split_seed,
        "coverage": source.coverage,
        **outputs_of(section, source.n_features, out),
    }
    if not described.excluded_positions:
        del config["excluded_positions"]
    write_whole(out / "bundle.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=110))


CONVERT_SOURCE = Stage(
    name="convert_source",
    config=ConvertSection,
    run=run,
    external=external,
    modules=(
        *(
            f"pipeline.importers.{name}"
            for name in (
                "bundle", "convert_source", "dashboard_source", "delphi_cache", "delphi_source", "describe",
                "embeddings", "examples_source", "hdf5_source", "json_lines", "jsonl_source", "neuron_source",
                "neuronpedia_source", "numpy_sources", "pieces", "prompt_spool", "sequence_rows", "source",
                "token_examples", "token_families", "weights", "zarr_sources",
            )
        ),
        *(
            f"saeinterp_mcp.loaders.{name}"
            for name in ("base", "batches", "files", "metadata", "neuron_acts", "transposed")
        ),
        "pipeline.importers.results.open_results",
        "pipeline.sources.tokenizer",
        "pipeline.sources.tokenizer_folder",
    ),
)  # fmt: skip
