"""Finished artifacts, or tables of an importer, become the folder beside a store: whole, or as it was before."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from pipeline.artifact import Artifact
from pipeline.fingerprint import package_version
from pipeline.linking import link_file
from pipeline.validation.config import ValidationRun
from pipeline.validation.swap import new_folder, swap
from pipeline.validation.vectors import used_embedder
from pipeline.validation.writing import fsync_folder, write_json, write_sidecar, write_table
from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.fingerprint import file_sha256
from saeinterp_mcp.store.manifest import read_manifest
from saeinterp_mcp.validation.folder import (
    MANIFEST,
    MASTER,
    OTHER_TEXTS,
    VECTORS,
    FileRecord,
    Validation,
    ValidationManifest,
)
from saeinterp_mcp.validation.tables import ACTIVATION_EXAMPLES, BY_NAME, TABLES, Table

IMPORTED = "imported"
"""Key of `made_by`: table to the warnings of the importer that put it there."""
SIDECAR = ".metadata.json"
PLACES = {
    "other_texts.json": OTHER_TEXTS,
    "feature_similarities.json": "feature_similarity/{sae_id}/feature_similarities.json",
    "umap_embeddings.json": "umap_feature/{sae_id}/umap_embeddings.json",
    "feature_clustering.json": "umap_clustering/feature_clustering.json",
    "explanation_umap.json": "umap_explanations/explanation_umap.json",
    "explanation_clustering.json": "umap_clustering/explanation_clustering.json",
    "llm_comparison_stats.json": "llm_comparison/llm_comparison_stats.json",
}
"""File of an artifact to its place in the folder; tables go to `master/`, vectors to `vectors/`, `scores/` stays."""


def place_of(name: str, sae_id: str) -> str | None:
    """Where a file of an artifact is published; None: it is for other stages only."""
    if name.startswith("scores/"):
        return name
    if "/" in name:
        return None
    if name.removesuffix(SIDECAR) in {table.file for table in TABLES}:
        return f"{MASTER}/{name}"
    if name.endswith(".npy"):
        return f"{VECTORS}/{name}"
    place = PLACES.get(name)
    return None if place is None else place.format(sae_id=sae_id)


def check_place(run: ValidationRun) -> None:
    """Refuse to begin a run whose tables could not go where they shall.

    Raises:
        BadInput: something else is there, or an importer's tables of another SAE.
    """
    assert run.out is not None, "load sets out"
    if run.sae_id in ("", ".", "..") or "\0" in run.sae_id or "\\" in run.sae_id:
        raise BadInput(f"sae_id {run.sae_id!r} names no folder; give the SAE's name")
    assert run.work is not None, "load sets work"
    if run.out == run.work or run.out in run.work.parents:
        raise BadInput(
            f"work ({run.work}) lies in out ({run.out}), which is replaced as a whole; name another"
        )
    if not run.out.exists():
        return
    try:
        old = Validation(run.out).manifest
    except BadStore as error:
        # never replaced: it may be anything, a store too
        raise BadInput(
            f"{run.out} exists and is no folder of tables that can be read; name another with `out`, or remove it "
            f"({error})"
        ) from error
    kept = old.made_by.get(IMPORTED, {})
    lineage = None if run.store is None else _lineage(run.store)
    if kept and None not in (old.store, lineage) and old.store != lineage:
        raise BadInput(
            f"{run.out} holds tables that an importer put there ({', '.join(sorted(kept))}) for another store; move "
            "it away, or name another `out`"
        )
    if kept and old.sae_id != run.sae_id:
        raise BadInput(
            f"{run.out} holds tables that an importer put there ({', '.join(sorted(kept))}), of sae_id "
            f"{old.sae_id!r}, and this run is of {run.sae_id!r}: they would not join. Name that sae_id, or "
            "another `out`"
        )


def publish_run(artifacts: Mapping[str, Path], run: ValidationRun) -> bool:
    """Put the artifacts of all stages of a run in place; False when the folder is the same already.

    Raises:
        BadStore: an artifact is damaged.
    """
    assert run.out is not None, "load sets out"
    assert run.work is not None, "load sets work"
    done = {name: Artifact.read(folder) for name, folder in artifacts.items()}
    with new_folder(run.out) as folder:
        files: dict[str, FileRecord] = {}
        warnings: dict[str, list[str]] = {}
        for name, artifact in done.items():
            for file, record in artifact.files.items():
                place = place_of(file, run.sae_id)
                if place is None:
                    continue
                if file.endswith(SIDECAR):
                    warnings |= _write_sidecar(artifacts[name] / file, folder / place, artifact)
                    files[place] = _record(folder / place)
                else:
                    link_file(artifacts[name] / file, folder / place)
                    files[place] = FileRecord(bytes=record.bytes, sha256=record.sha256)
            if artifact.summary.notes and not any(file.endswith(SIDECAR) for file in artifact.files):
                warnings[name] = list(artifact.summary.notes)
        beyond = _beyond(folder, run)
        if beyond is not None:
            warnings["decoder_similarities"] = [*warnings.get("decoder_similarities", ()), beyond]
        imported = _keep_imported(run.out, folder, files)
        manifest = ValidationManifest(
            name=run.name,
            sae_id=run.sae_id,
            n_features=_n_features(folder, run),
            store=None if run.store is None else _lineage(run.store),
            embedder=used_embedder(run.work, run.embedder.model),
            compat=run.compat,
            seed=run.seed,
            stages={name: artifact.fingerprint for name, artifact in done.items()},
            warnings=_sentences(warnings | imported),
            files=dict(sorted(files.items())),
            made_by={"saeinterp": package_version(), IMPORTED: imported},
        )
        return _finish(folder, run.out, manifest)


def _lineage(store: Path) -> str:
    manifest = read_manifest(store)
    return manifest.lineage or manifest.fingerprint()


def publish_tables(
    out: Path,
    name: str,
    sae_id: str,
    n_features: int,
    store_lineage: str | None,
    tables: Mapping[str, pl.DataFrame],
    warnings: Sequence[str] = (),
) -> bool:
    """Put an importer's tables into the folder beside a store, new or published; False when they are there already.

    Rows are put into their declared order. Tables that `validate` made are not touched: it had more to make them of.

    Args:
        out: the folder (`folder_beside(store)`).
        name: of the store.
        sae_id: in the spelling of `validation.names.sae_id`.
        n_features: of the SAE.
        store_lineage: `manifest.lineage or manifest.fingerprint()` of the store.
        tables: by their names in `tables.BY_NAME`.
        warnings: what a reader of these tables must know.

    Raises:
        BadInput: `out` is of another SAE or store, or no folder of tables.
        BadStore: columns or types differ from the declared ones.
    """
    old = None
    if out.exists():
        old = Validation(out).manifest
        if old.sae_id != sae_id or old.store not in (None, store_lineage):
            raise BadInput(
                f"{out} holds tables of {old.sae_id!r} and another store or SAE; move it away and import again"
            )
    imported: dict[str, list[str]] = dict(old.made_by.get(IMPORTED, {})) if old is not None else {}
    made = {table.name for table in TABLES if old and f"{MASTER}/{table.file}" in old.files} - imported.keys()
    with new_folder(out) as folder:
        files = {} if old is None else _link_all(out, folder, old)
        for table_name in sorted(tables.keys() - made):
            table = BY_NAME[table_name]
            for place in (f"{MASTER}/{table.file}", f"{MASTER}/{table.file}{SIDECAR}"):
                (folder / place).unlink(missing_ok=True)
            (folder / MASTER).mkdir(exist_ok=True)
            write_table(table, in_order(table, tables[table_name]), folder / MASTER / table.file)
            write_sidecar(table, folder / MASTER, sae_id, {}, {}, warnings)
            for place in (f"{MASTER}/{table.file}", f"{MASTER}/{table.file}{SIDECAR}"):
                files[place] = _record(folder / place)
            imported[table_name] = list(warnings)
        base = old or ValidationManifest(name=name, sae_id=sae_id, n_features=n_features, store=store_lineage)
        kept = [one for one in base.warnings if one not in _sentences(base.made_by.get(IMPORTED, {}))]
        manifest = base.model_copy(
            update={
                "files": dict(sorted(files.items())),
                "warnings": (*kept, *_sentences(imported)),
                "made_by": {**base.made_by, "saeinterp": package_version(), IMPORTED: imported},
            }
        )
        return _finish(folder, out, manifest)


def in_order(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """The rows in the table's declared order; strings by their bytes, whatever order categories came in."""
    keys = [
        pl.col(name).cast(pl.String) if table.schema[name] == pl.Categorical else pl.col(name)
        for name in table.sorted_by
    ]
    return frame.sort(keys, maintain_order=True)


def _write_sidecar(source: Path, target: Path, artifact: Artifact) -> dict[str, list[str]]:
    """The stage's sidecar and what made it; its warnings by the table's name."""
    content = json.loads(source.read_text(encoding="utf-8"))
    identity = artifact.identity
    content["made_by"] = {
        "stage": identity.stage,
        "fingerprint": artifact.fingerprint,
        "inputs": identity.inputs,
        "files": identity.files,
        "config": identity.config,
        "saeinterp": identity.code.get("version"),
    }
    write_json(target, content)
    found = [str(one) for one in content.get("warnings", ())]
    return {target.name.removesuffix(SIDECAR).removesuffix(".parquet"): found} if found else {}


def _sentences(warnings: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """`table: warning`, each once."""
    return tuple(dict.fromkeys(f"{name}: {one}" for name in sorted(warnings) for one in warnings[name]))


def _beyond(folder: Path, run: ValidationRun) -> str | None:
    """What to tell where activations are of features that the named weights do not have; a store was checked."""
    n, reach = run.n_features, _reach(folder / MASTER / ACTIVATION_EXAMPLES.file)
    if run.store is not None or n is None or reach <= n:
        return None
    return f"weights hold {n} features, activations reach {reach - 1}: they are of two SAEs"


def _n_features(folder: Path, run: ValidationRun) -> int:
    """What the store says, else the weights, or activations that reach further; else the largest of any table."""
    known = run.n_features
    if known is not None:
        return known if run.store else max(known, _reach(folder / MASTER / ACTIVATION_EXAMPLES.file))
    similar = folder / PLACES["feature_similarities.json"].format(sae_id=run.sae_id)
    found = [0]
    if similar.is_file():
        found.append(int(json.loads(similar.read_text(encoding="utf-8")).get("n_features") or 0))
    for path in sorted((folder / MASTER).glob("*.parquet")):
        found.append(_reach(path))
    return max(found)


def _reach(path: Path) -> int:
    """One more than the largest feature of a table; 0 where there is none."""
    if not path.is_file() or "feature_id" not in (frame := pl.scan_parquet(path)).collect_schema():
        return 0
    largest = frame.select(pl.col("feature_id").max()).collect().item()
    return 0 if largest is None else int(largest) + 1


def _opened(out: Path) -> Validation | None:
    """The folder that is there; None where it is damaged, to be made anew."""
    try:
        return Validation(out)
    except BadStore:
        return None


def _keep_imported(out: Path, folder: Path, files: dict[str, FileRecord]) -> dict[str, list[str]]:
    """Link the tables that an importer put there and this run does not make; table to its warnings."""
    old = _opened(out) if out.exists() else None
    kept: dict[str, list[str]] = {}
    for name, warnings in (old.manifest.made_by.get(IMPORTED, {}) if old is not None else {}).items():
        place = f"{MASTER}/{BY_NAME[name].file}"
        if place in files or old is None or place not in old.manifest.files:
            continue
        for one in (place, place + SIDECAR):
            record = old.manifest.files.get(one)
            if record is not None and (out / one).is_file() and (out / one).stat().st_size == record.bytes:
                link_file(out / one, folder / one)
                files[one] = record
        kept[name] = list(warnings)
    return kept


def _link_all(out: Path, folder: Path, manifest: ValidationManifest) -> dict[str, FileRecord]:
    for place in manifest.files:
        link_file(out / place, folder / place)
    return dict(manifest.files)


def _record(path: Path) -> FileRecord:
    return FileRecord(bytes=path.stat().st_size, sha256=file_sha256(path))


def _finish(folder: Path, out: Path, manifest: ValidationManifest) -> bool:
    """Write the manifest last, and swap the folders; False when what is there has the same manifest."""
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    for one in sorted({path.parent for path in folder.rglob("*")}):
        fsync_folder(one)
    if out.exists() and _same(folder / MANIFEST, out):
        return False
    swap(folder, out)
    fsync_folder(out.parent)
    return True


def _same(manifest: Path, out: Path) -> bool:
    """Whether the folder has this very manifest, and its files in full size."""
    old = out / MANIFEST
    if not old.is_file() or _digest(old) != _digest(manifest):
        return False
    found = _opened(out)
    return found is not None and all(
        (out / name).is_file() and (out / name).stat().st_size == record.bytes
        for name, record in found.manifest.files.items()
    )


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
