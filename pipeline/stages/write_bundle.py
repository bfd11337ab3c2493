"""Everything in one folder, in the format that `import bundle` reads: the end of the half that needs a model.

Families and groups come in here, so that changing them does not repeat the collection. Large files are hard
links to those of the earlier artifacts where the file system can.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from pipeline.artifact import Artifact
from pipeline.checks import Check
from pipeline.config import Execution, FamilyConfig, GroupConfig, SearchFloor
from pipeline.families import position_families, position_level_functions, token_families
from pipeline.fingerprint import write_whole
from pipeline.source_config import DatasetConfig, ModelConfig, SaeConfig
from pipeline.stage import Progress, Stage, Summary
from pipeline.tokenisation import Shard, TokenisedSamples
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.frozen import Frozen


class WriteBundleConfig(Frozen):
    """The sections that decide what the bundle says beside its numbers."""

    name: str
    model: ModelConfig
    sae: SaeConfig
    dataset: DatasetConfig
    families: tuple[FamilyConfig, ...]
    groups: tuple[GroupConfig, ...]
    split_seed: int
    search_floor: SearchFloor


def external(config: WriteBundleConfig) -> dict[str, Path]:
    """The files with attributes of groups, and what `cfg.json` says of the SAE."""
    files = {
        f"groups/{group.name}": group.attributes for group in config.groups if group.attributes is not None
    }
    for name, path in files.items():
        if not path.is_file():
            raise BadInput(f"{name}: there is no file {path}")
    return files


def run(
    config: WriteBundleConfig, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    """Write `samples.parquet`, `positions.parquet` and `bundle.yaml`, and link the rest."""
    samples = TokenisedSamples(inputs["tokenize_dataset"])
    check_groups(config.groups, samples.tokenisation.groups)
    occurs = write_tables(config, samples, out, progress)
    families = token_families(
        config.families, (token for token, there in zip(samples.token_strings, occurs, strict=True) if there)
    )
    collected, outputs = inputs["collect_activations"], inputs["measure_outputs"]
    (out / "activations").mkdir(exist_ok=True)
    for part in sorted((collected / "activations").glob("*.parquet")):
        link(part, out / "activations" / part.name)
    for name in ("decoder.npy", "unembedding.npy", "output_tokens.json", "output_check.json"):
        link(outputs / name, out / name)
    link(inputs["check_load"] / "checks.json", out / "checks.json")
    for group in config.groups:
        if group.attributes is not None:
            # a copy: somebody may write into their own file, and a hard link would change with it
            copy_whole(group.attributes, out / f"{group.name}_attributes.parquet")
    bundle = describe(config, inputs, samples, [family.model_dump(mode="json") for family in families])
    text = yaml.dump(bundle, Dumper=yaml.CSafeDumper, sort_keys=False, width=110)
    write_whole(out / "bundle.yaml", text)
    n_samples = samples.tokenisation.n_samples
    notes = tuple(f"family {family.name}: {len(family.levels)} tokens" for family in families)
    return Summary(n_in=n_samples, n_kept=n_samples, notes=notes)


def check_groups(listed: tuple[GroupConfig, ...], there: tuple[str, ...]) -> None:
    """Every group of the config must be one of the dataset's, and one at most primary."""
    for group in listed:
        if group.name not in there:
            raise BadInput(
                f"groups: the dataset section reads no group {group.name!r}; {nearest(group.name, there)}"
            )
    primary = [group.name for group in listed if group.primary]
    if len(primary) > 1:
        raise BadInput(f"groups: only one group can be primary, these are: {', '.join(primary)}")


def write_tables(
    config: WriteBundleConfig, samples: TokenisedSamples, out: Path, progress: Progress
) -> NDArray[np.bool_]:
    """Write samples and positions a shard at a time; returns which ids occur, (n_tokens,)."""
    strings = pa.array(samples.token_strings, type=pa.string())
    occurs = np.zeros(len(strings), dtype=np.bool_)
    computed = position_level_functions(position_families(config.families), samples.token_strings)
    sample_fields = [pa.field("tokens", pa.list_(pa.string())), pa.field("unit", pa.string())]
    sample_fields += [pa.field(name, pa.string()) for name in samples.tokenisation.groups]
    position_fields = [pa.field("sample", pa.uint32()), pa.field("position", pa.uint32())]
    position_fields += [pa.field(name, pa.uint16()) for name in computed]
    temporary = {name: out / f"{name}.parquet.tmp" for name in ("samples", "positions")}
    with (
        pq.ParquetWriter(temporary["samples"], pa.schema(sample_fields), compression="zstd") as sample_file,
        pq.ParquetWriter(
            temporary["positions"], pa.schema(position_fields), compression="zstd"
        ) as position_file,
    ):
        for shard, other in samples.tables():
            occurs[np.unique(shard.token_ids)] = True
            tokens = pa.ListArray.from_arrays(
                pa.array(shard.offsets.astype(np.int32)), strings.take(pa.array(shard.token_ids))
            )
            columns = [tokens, *(other.column(name).combine_chunks() for name in other.column_names)]
            sample_file.write_table(pa.Table.from_arrays(columns, schema=pa.schema(sample_fields)))
            if computed:
                position_file.write_table(position_table(shard, computed, pa.schema(position_fields)))
            progress(shard.first_sample + shard.n_samples, samples.tokenisation.n_samples)
    temporary["samples"].replace(out / "samples.parquet")
    if computed:
        temporary["positions"].replace(out / "positions.parquet")
    else:
        temporary["positions"].unlink()
    return occurs


def position_table(shard: Shard, computed: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """Levels of the positions of a shard that have one above 0."""
    sample = np.repeat(np.arange(shard.n_samples) + shard.first_sample, shard.lengths)
    position = np.arange(len(shard.token_ids)) - np.repeat(shard.offsets[:-1], shard.lengths)
    levels = [
        np.concatenate([function.levels(shard.sample(index)) for index in range(shard.n_samples)])
        for function in computed.values()
    ]
    member = np.any(levels, axis=0)  # a position that is not listed is level 0
    arrays = [
        pa.array(column[member], type=field.type)
        for column, field in zip([sample, position, *levels], schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def describe(
    config: WriteBundleConfig,
    inputs: Mapping[str, Path],
    samples: TokenisedSamples,
    families: list[dict[str, Any]],
) -> dict[str, Any]:
    """The content of `bundle.yaml`."""
    artifacts = {name: Artifact.read(folder) for name, folder in inputs.items()}
    weights = artifacts["collect_activations"].identity.files
    documents = artifacts["tokenize_dataset"].identity.files
    sae_says = json.loads((inputs["collect_activations"] / "sae.json").read_text(encoding="utf-8"))
    output = json.loads((inputs["measure_outputs"] / "output_check.json").read_text(encoding="utf-8"))
    checks = json.loads((inputs["check_load"] / "checks.json").read_text(encoding="utf-8"))
    tokenisation = samples.tokenisation
    listed = {group.name: group for group in config.groups}
    groups = []
    for name in tokenisation.groups:
        entry: dict[str, Any] = {"name": name}
        if name in listed and listed[name].primary:
            entry["primary"] = True
        if name in listed and listed[name].attributes is not None:
            entry["attributes"] = f"{name}_attributes.parquet"
        groups.append(entry)
    return {
        "name": config.name,
        "kind": "sequence",
        "n_features": sae_says["n_features"],
        "families": families,
        "groups": groups,
        "excluded_positions": list(tokenisation.excluded_positions),
        "split_seed": config.split_seed,
        "search_floor": config.search_floor.model_dump(exclude_none=True),
        "model": {
            "name": config.model.display_name,
            **config.model.model_dump(mode="json", include={"hub", "revision", "dtype"}, exclude_none=True),
            "files": {name: digest for name, digest in weights.items() if name.startswith("model")},
        },
        "sae": {
            "name": config.sae.display_name,
            **sae_says,
            "files": {name: digest for name, digest in weights.items() if name.startswith("sae")},
        },
        "dataset": {
            **config.dataset.model_dump(
                mode="json", include={"format", "hub", "revision", "subset", "split"}, exclude_none=True
            ),
            **tokenisation.model_dump(mode="json", exclude={"groups", "excluded_positions"}),
            "min_activation": artifacts["collect_activations"].identity.config["collect"]["min_activation"],
            "dropped": artifacts["tokenize_dataset"].summary.dropped,
            "files": {name: digest for name, digest in documents.items() if name.startswith("dataset")},
        },
        "checks": [*checks, Check.model_validate(output["check"]).model_dump(mode="json")],
        "decoder": "decoder.npy",
        "unembedding": "unembedding.npy",
        "output_tokens": "output_tokens.json",
    }


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none; artifacts are never changed, so the two are the
    same."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        copy_whole(source, target)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file under a temporary name, then rename it."""
    temporary = target.with_name(target.name + ".tmp")
    shutil.copyfile(source, temporary)
    temporary.replace(target)


WRITE_BUNDLE = Stage(
    name="write_bundle",
    config=WriteBundleConfig,
    run=run,
    inputs=("tokenize_dataset", "check_load", "collect_activations", "measure_outputs"),
    modules=("pipeline.stages.write_bundle", "pipeline.families", "pipeline.tokenisation", "pipeline.checks"),
    external=external,
)
