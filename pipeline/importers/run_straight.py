"""`import FORMAT SRC --straight`: a store of samples and labels that reads activations from where they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Execution
from pipeline.importers.convert_source import FIRST_ROWS, ConvertSection, describe_source, open_source
from pipeline.importers.source import SourceSection
from pipeline.stage import Progress, Stage, Summary
from pipeline.stages.bundle_to_store import own_modules, publish_stage, stages_from_bundle
from pipeline.stages.order_samples import DRAFT, PLACING
from pipeline.stages.store_config import StoreSection
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.layout import NO_INDEX
from saeinterp_mcp.store.manifest import Manifest, StraightSource
from saeinterp_mcp.store.straight_store import FOLDER, SUFFIXES, list_source
from saeinterp_mcp.store.zarr_writer import ZarrWriter

DESCRIBE = "convert_source"
"""The name under which the later stages look for the bundle; here it holds samples only."""


class StraightSection(StoreSection, ConvertSection):
    """What the stages see."""


def straight_stages(section: SourceSection) -> tuple[Stage[Any], ...]:
    """The stages of a store that serves somebody's files straight.

    Raises:
        BadInput: a format without a loader.
    """
    if section.format not in FOLDER:
        raise BadInput(f"--straight serves {', '.join(FOLDER)}; {section.format} must be imported")
    describe: Stage[Any] = Stage(
        name=DESCRIBE, config=ConvertSection, run=_describe, external=_described_files, modules=_MODULES
    )
    after = {stage.name: stage for stage in stages_from_bundle(after=DESCRIBE)}
    link: Stage[Any] = Stage(
        name="link_source",
        config=StraightSection,
        run=_link_source,
        inputs=(DESCRIBE, "order_samples"),
        modules=_MODULES,
    )
    publish = publish_stage(("link_source", "order_samples", "trace_outputs"))
    return (describe, after["order_samples"], after["trace_outputs"], link, publish)


_MODULES = own_modules("order_samples")


def _described_files(section: ConvertSection) -> dict[str, Path]:
    """What the description depends on; of the activations themselves only names and sizes count."""
    source = open_source(section.source)
    files = {f"metadata/{path.name}": path for path in source.metadata}
    for name in ("vocab", "weapon_vocab", "families", "decoder", "unembedding", "output_tokens"):
        path = getattr(section.source, name)
        if path is not None:
            files[name] = path
    if section.source.metadata is not None:
        files |= {f"given/{p.name}": p for p in sorted(section.source.metadata.glob("**/*.parquet"))}
    return files


def _describe(
    section: ConvertSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    source = open_source(section.source)
    notes = describe_source(section.source, source, out)
    return Summary(n_in=source.n_rows, n_kept=source.n_rows, notes=tuple(notes))


def _link_source(
    section: StraightSection, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    """Which row of the store each row of the source is, and the draft that says where activations are."""
    source = open_source(section.source)
    placing = inputs["order_samples"] / PLACING
    first_row, rank, excluded, lengths = (
        np.load(placing / f"{name}.npy", allow_pickle=False)
        for name in ("first_row", "rank", "excluded", "lengths")
    )
    first = inputs[DESCRIBE] / FIRST_ROWS
    if first.is_file():
        begins = np.load(first, allow_pickle=False)
        sample = np.repeat(np.arange(len(lengths)), np.diff(begins))
        position = np.arange(source.n_rows) - begins[sample]
        store_row = np.where(excluded[position], NO_INDEX, first_row[sample] + rank[position])
    else:
        store_row = first_row
    writer = ZarrWriter(out)
    writer.put("source/store_row", store_row.astype(np.uint32))
    draft = Manifest.model_validate_json((inputs["order_samples"] / DRAFT).read_text(encoding="utf-8"))
    folder = section.source.path.resolve()
    format: Any = section.source.format
    straight = StraightSource(
        format=format,
        folder=str(folder),
        n_rows=source.n_rows,
        trust_arrays=section.source.trust_arrays,
        negatives=section.store.negatives,
        listing=list_source(folder / SUFFIXES[format]),
    )
    (out / DRAFT).write_text(
        draft.model_copy(update={"straight": straight}).model_dump_json(), encoding="utf-8"
    )
    return Summary(n_in=source.n_rows, n_kept=int((store_row != NO_INDEX).sum()))
