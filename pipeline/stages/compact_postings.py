"""The segments of a store sorted into one: everything else stays as it is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.config import Execution
from pipeline.linking import link_tree
from pipeline.stages.append_samples import rows_of_segments
from pipeline.stages.order_samples import DRAFT, PLACING
from pipeline.stages.write_postings import SPOOL, Sorting, is_activations, parts_of_store
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.manifest import MANIFEST, Manifest, Segment
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.zarr_writer import ZarrWriter


def compact_postings(
    base: Path, out: Path, execution: Execution, progress: Callable[[int, int], None]
) -> Manifest:
    """Write the activations of all segments as one, link all the rest, and draft the next generation.

    Raises:
        BadInput: the store has one segment only.
    """
    store = open_store(base)
    if len(store.manifest.segments) == 1:
        raise BadInput(f"{base} has one segment; there is nothing to compact")
    placing = out / PLACING
    placing.mkdir(exist_ok=True)
    for segment, rows in enumerate(rows_of_segments(store)):
        np.save(placing / f"segment-{segment}.npy", np.asarray(rows, np.uint32))
    writer = ZarrWriter(out)
    parts, counts = parts_of_store(store, placing, out / SPOOL)
    manifest = store.manifest
    sorting = Sorting(writer, "", manifest.n_features, manifest.n_rows, execution, progress)
    found = sorting.run(parts, counts)
    assert found == manifest.n_activations, f"{found} activations sorted of {manifest.n_activations}"

    def kept(name: Path) -> bool:
        return (
            not is_activations(name)
            and name.parts[0] != "segments"
            and name.as_posix() not in (MANIFEST, "build_log.json")
        )

    link_tree(base, out, kept)
    draft = manifest.model_copy(
        update={
            "generation": manifest.generation + 1,
            "lineage": manifest.lineage or manifest.fingerprint(),
            "segments": (Segment(n_samples=manifest.n_samples),),
            "files": {},
            "provenance": {},
        }
    )
    (out / DRAFT).write_text(draft.model_dump_json(), encoding="utf-8")
    return draft
