"""Everything of a run over sets in one folder, in the format that `import bundle` reads.

Families and groups come in here, so that changing them repeats neither capture nor training. Large files are hard
links to those of the earlier artifacts where the file system can.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.config import Execution, FamilyConfig, GroupConfig, SearchFloor
from pipeline.families import token_families
from pipeline.fingerprint import write_whole
from pipeline.importers.token_families import Encodings, levels_by_name
from pipeline.set_config import NULL_SAMPLE, SetDatasetConfig, SetModelConfig, SetSaeConfig
from pipeline.stage import Progress, Stage, Summary
from pipeline.stages.draw_samples import SAMPLES, SETS, group_columns
from pipeline.stages.write_bundle import check_groups, copy_whole, link
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen

OUTPUT_FILES = {
    "decoder": "decoder.npy",
    "unembedding": "unembedding.npy",
    "output_tokens": "output_tokens.json",
}
"""Key of `bundle.yaml` to file; the last two are there where the adapter has a read-out."""


class WriteSetBundleConfig(Frozen):
    """The sections that decide what the bundle says beside its numbers."""

    name: str
    model: SetModelConfig
    hook: str
    sae: SetSaeConfig
    dataset: SetDatasetConfig
    families: Literal["by_name"] | tuple[FamilyConfig, ...]
    groups: tuple[GroupConfig, ...]
    split_seed: int
    search_floor: SearchFloor


def external(config: WriteSetBundleConfig) -> dict[str, Path]:
    """The files with attributes of groups."""
    check_groups(config.groups, group_columns(config.dataset))
    files = {f"groups/{group.name}": group.attributes for group in config.groups if group.attributes}
    for name, path in files.items():
        if not path.is_file():
            raise BadInput(f"{name}: there is no file {path}")
    return files


def run(
    config: WriteSetBundleConfig,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    """Link samples, activations and weights, and write `bundle.yaml`."""
    link(inputs["draw_samples"] / SAMPLES, out / SAMPLES)
    (out / "activations").mkdir(exist_ok=True)
    for part in sorted((inputs["encode_vectors"] / "activations").glob("*.parquet")):
        link(part, out / "activations" / part.name)
    for name in (*OUTPUT_FILES.values(), "output_check.json"):
        if (inputs["measure_read_out"] / name).is_file():
            link(inputs["measure_read_out"] / name, out / name)
    for group in config.groups:
        if group.attributes is not None:
            # a copy, as in write_bundle
            copy_whole(group.attributes, out / f"{group.name}_attributes.parquet")
    families, notes = find_families(config, inputs["draw_samples"])
    bundle = describe(config, inputs, families, [*notes, *sample_notes(config, inputs)])
    write_whole(out / "bundle.yaml", yaml.dump(bundle, Dumper=yaml.CSafeDumper, sort_keys=False, width=110))
    n_samples = pq.read_metadata(out / SAMPLES).num_rows
    progress(n_samples, n_samples)
    return Summary(n_in=n_samples, n_kept=n_samples, notes=(f"{len(families)} families of tokens", *notes))


def find_families(config: WriteSetBundleConfig, drawn: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The families as `bundle.yaml` has them, and what a reader should know of them."""
    tokens = occurring_tokens(drawn)
    if config.families != "by_name":
        listed = token_families(config.families, tokens)
        return [family.model_dump(mode="json") for family in listed], []
    levels = levels_by_name(tokens)
    encodings = Encodings(levels, tokens)
    for row, token in sample_tokens(drawn, tokens):
        encodings.add(row, token)
    # Where views were drawn, gaps are what masking leaves; the samples' own note says so.
    return encodings.families(levels), [] if config.dataset.views is not None else encodings.notes()


def occurring_tokens(drawn: Path) -> list[str]:
    """Every token of the sets, sorted."""
    found: set[str] = set()
    for tokens in token_lists(drawn / SETS):
        found.update(pc.unique(tokens.flatten()).to_pylist())
    return sorted(found)


def sample_tokens(drawn: Path, tokens: list[str]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The samples a row group at a time: (row in it, index into `tokens`), one entry a token."""
    place = pa.array(tokens, pa.string())
    for lists in token_lists(drawn / SAMPLES):
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        index = pc.index_in(lists.flatten(), value_set=place).to_numpy(zero_copy_only=False)
        yield np.repeat(np.arange(len(lists)), lengths), index.astype(np.int64)


def token_lists(path: Path) -> Iterator[pa.ListArray]:
    """The column `tokens`, a row group at a time."""
    with pq.ParquetFile(path) as file:
        for index in range(file.num_row_groups):
            yield file.read_row_group(index, columns=["tokens"]).column("tokens").combine_chunks()


def sample_notes(config: WriteSetBundleConfig, inputs: Mapping[str, Path]) -> list[str]:
    """What a reader of the store should know of its samples."""
    notes = []
    dataset = config.dataset
    if dataset.views is not None:
        whole = "the whole set and " if dataset.views.keep_full else ""
        notes.append(
            f"samples are {whole}{dataset.views.n} partial views of each set (tokens removed at random), so a level"
            " may be there without the lower ones; the views of a set are one unit"
        )
    n_null = n_null_samples(inputs["draw_samples"])
    if dataset.null_samples is not None:
        notes.append(
            f"{n_null} samples are null samples (no tokens, one for each {dataset.null_samples}); they are rows like"
            f" others and count in every statistic; where `not {NULL_SAMPLE}=yes` leaves them out,"
            f" where `{NULL_SAMPLE}=yes` asks for them alone"
        )
    return [*notes, *read_json(inputs["encode_vectors"] / "notes.json")]


def n_null_samples(drawn: Path) -> int:
    """Samples that are views of no set."""
    column = pq.read_table(drawn / SAMPLES, columns=["set"]).column("set")
    return int(column.null_count)


def describe(
    config: WriteSetBundleConfig,
    inputs: Mapping[str, Path],
    families: list[dict[str, Any]],
    notes: list[str],
) -> dict[str, Any]:
    """The content of `bundle.yaml`."""
    artifacts = {name: Artifact.read(folder) for name, folder in inputs.items()}
    drawn, captured = artifacts["draw_samples"], artifacts["capture_vectors"]
    outputs = inputs["measure_read_out"]
    sae_says = read_json(inputs["encode_vectors"] / "sae.json")
    checks = read_json(inputs["check_vectors"] / "checks.json")
    if (outputs / "output_check.json").is_file():
        checks.append(read_json(outputs / "output_check.json")["check"])
    views = config.dataset.views
    return {
        "name": config.name,
        "kind": "set",
        "n_features": sae_says["n_features"],
        "families": families,
        "groups": group_entries(config),
        "split_seed": config.split_seed,
        "search_floor": config.search_floor.model_dump(exclude_none=True),
        "model": {
            "name": config.model.display_name,
            "hook": config.hook,
            **({"read_out": "sigmoid"} if (outputs / OUTPUT_FILES["unembedding"]).is_file() else {}),
            "files": captured.identity.files,
        },
        "sae": {"name": config.sae.display_name, **sae_says, **trained(config, inputs, artifacts)},
        "dataset": {
            "format": config.dataset.format,
            "n_sets": drawn.summary.n_kept,
            "n_null_samples": n_null_samples(inputs["draw_samples"]),
            **({} if views is None else {"views": views.model_dump(mode="json")}),
            "min_activation": artifacts["encode_vectors"].identity.config["collect"]["min_activation"],
            "dropped": drawn.summary.dropped,
            "files": drawn.identity.files,
        },
        "checks": [*checks, *({"name": "import", "passed": None, "note": note} for note in notes)],
        **{key: name for key, name in OUTPUT_FILES.items() if (outputs / name).is_file()},
    }


def group_entries(config: WriteSetBundleConfig) -> list[dict[str, Any]]:
    """Every group of the samples as `bundle.yaml` lists it."""
    listed = {group.name: group for group in config.groups}
    entries = []
    for name in group_columns(config.dataset):
        entry: dict[str, Any] = {"name": name}
        if name in listed and listed[name].primary:
            entry["primary"] = True
        if name in listed and listed[name].attributes is not None:
            entry["attributes"] = f"{name}_attributes.parquet"
        entries.append(entry)
    return entries


def trained(
    config: WriteSetBundleConfig, inputs: Mapping[str, Path], artifacts: Mapping[str, Artifact]
) -> dict[str, Any]:
    """Where the SAE is from: the hashes of its files, and how the run trained it, where it did."""
    if config.sae.train is None:
        files = artifacts["encode_vectors"].identity.files
        return {"files": {name: digest for name, digest in files.items() if name.startswith("sae")}}
    records = artifacts["train_sae"].files
    return {
        "trained": config.sae.train.model_dump(mode="json", exclude_none=True),
        "files": {name: record.sha256 for name, record in records.items() if name.startswith("sae/")},
    }


def read_json(path: Path) -> Any:
    """A JSON file of an earlier artifact."""
    return json.loads(path.read_text(encoding="utf-8"))


WRITE_SET_BUNDLE = Stage(
    name="write_set_bundle",
    config=WriteSetBundleConfig,
    run=run,
    inputs=("draw_samples", "capture_vectors", "check_vectors", "encode_vectors", "measure_read_out"),
    modules=(
        "pipeline.stages.write_set_bundle",
        "pipeline.stages.draw_samples",
        "pipeline.stages.write_bundle",
        "pipeline.checks",
        "pipeline.families",
        "pipeline.importers.bundle",
        "pipeline.importers.token_families",
        "pipeline.set_views",
        "pipeline.sources.set_dataset",
        "pipeline.tokenisation",
    ),
    external=external,
)
