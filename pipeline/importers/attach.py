"""`saeinterp-pipeline attach`: explanations and scores of other people's runs go beside a store that is there.

They become tables in `STORE.validation` and drafts in the labels file. The store itself is not touched.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl

from pipeline.importers.attach_tables import Read, joined, read_source
from pipeline.importers.drafts import save_drafts
from pipeline.importers.results.open_results import EXPLANATIONS, SCORES, open_results
from pipeline.importers.results.records import Problem, Results
from pipeline.validation.config import DataSource
from pipeline.validation.publish import publish_tables
from pipeline.validation.sources import sae_differs
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.manifest import Manifest, read_manifest
from saeinterp_mcp.validation.folder import Validation, folder_beside, validation_beside
from saeinterp_mcp.validation.names import sae_id
from saeinterp_mcp.validation.tables import EXPLANATION_EMBEDDINGS
from saeinterp_mcp.validation.tables import SCORES as SCORES_TABLE

PARTS = (EXPLANATIONS, SCORES, "neighbours")


class Attached(NamedTuple):
    """What was done."""

    lines: tuple[str, ...]
    """To tell the user."""
    problems: tuple[Problem, ...]


def attach(
    sources: Sequence[DataSource], store: Path, bad_files: Literal["skip", "stop"] = "skip"
) -> Attached:
    """Put what these sources hold beside a store. A second time nothing changes.

    Raises:
        BadInput: a source holds nothing, several hookpoints, or does not say who explained; a bad file, where these
            stop the import; the tables there are of another SAE or store.
        BadStore: the store or what is beside it is damaged.
    """
    manifest = read_manifest(store)
    lineage = manifest.lineage or manifest.fingerprint()
    beside = validation_beside(store, lineage)
    opened = [(source, _opened(source)) for source in sources]
    name = _sae_id([results for _, results in opened if results is not None], beside, manifest)
    reads = [read_source(s, results, name, manifest.n_features, bad_files) for s, results in opened]
    tables, notes, made = joined(reads, beside)
    for source, results in opened:
        for table in (EXPLANATION_EMBEDDINGS.name, SCORES_TABLE.name):
            if results is not None and table in notes:
                notes[table] += sae_differs(source, results, name)
    lines = [line for read in reads for line in _told(read)]
    out = folder_beside(store)
    # one after the other, because each has its own warnings
    changed = [
        publish_tables(out, manifest.name, name, manifest.n_features, lineage, {table: frame}, notes[table])
        for table, frame in tables.items()
    ]
    if tables:
        there = ", ".join(f"{table} ({len(frame)} rows)" for table, frame in tables.items())
        lines.append(f"{out}: {there}" if any(changed) else f"{out}: nothing changed")
    if made:
        lines.append(
            f"{', '.join(made)} in {out}: made by `validate` and left as it was; name these folders under data_sources "
            "in its config"
        )
    lines += _draft(reads, tables, store)
    return Attached(tuple(lines), tuple(problem for read in reads for problem in read.problems))


def sources_of(
    paths: Sequence[Path], explainer: str | None, scorer: str | None, hookpoint: str | None
) -> list[DataSource]:
    """The folders as data sources; of a folder that only holds such folders, these.

    Raises:
        BadInput: one is no folder, or two have one name.
    """
    folders: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise BadInput(f"{path} is no folder")
        inside = [one for one in sorted(path.iterdir()) if one.is_dir() and _holds_results(one)]
        folders += [path] if _holds_results(path) or not inside else inside
    names = [source_name(folder) for folder in folders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(f"two folders are called {twice}: their rows could not be told apart; rename one")
    return [
        DataSource(name=name, path=folder, llm_explainer=explainer, llm_scorer=scorer, hookpoint=hookpoint)
        for name, folder in zip(names, folders, strict=True)
    ]


def source_name(folder: Path) -> str:
    """The name of a source: that of its folder."""
    return re.sub(r"[^\w.-]+", "_", folder.resolve().name)[:200] or "imported"


def _holds_results(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in (EXPLANATIONS, SCORES))


def _opened(source: DataSource) -> Results | None:
    """The results; None where only neighbours are there."""
    if not _holds_results(source.path) and any((source.path / part).is_dir() for part in PARTS):
        return None
    return open_results(source.path, source.llm_explainer, source.llm_scorer, source.hookpoint)


def _sae_id(results: Sequence[Results], beside: Validation | None, manifest: Manifest) -> str:
    """Of the tables that are there; else as the runs say, where they agree; else the store's own name."""
    if beside is not None:
        return beside.manifest.sae_id
    said = {one.sae_id for one in results if one.sae_id is not None}
    return said.pop() if len(said) == 1 else sae_id(manifest.name)


def _told(read: Read) -> list[str]:
    name, results = read.source.name, read.results
    states = dict(read.explanations["status"].cast(str).value_counts(sort=True).iter_rows())
    ok = states.pop("ok", 0)
    failed = "".join(f", {n} {state}" for state, n in sorted(states.items()))
    lines = []
    if results is not None:
        scorer = f", scored by {results.scorer}" if results.scorer else ""
        lines.append(f"{name}: {results.hookpoint}, explained by {results.explainer}{scorer}")
        lines.append(f"{name}: {ok} explanations{failed}; {len(read.scores)} scores")
    if len(read.neighbours):
        lines.append(f"{name}: {len(read.neighbours)} neighbours")
    notes = dict.fromkeys(note for found in read.notes.values() for note in found)
    return lines + [f"note: {note}" for note in notes]


def _draft(reads: Sequence[Read], tables: Mapping[str, pl.DataFrame], store: Path) -> list[str]:
    copies = explained = pl.concat([read.explanations for read in reads])
    # all scores of these words that are known, also those of earlier imports
    known = tables.get(SCORES_TABLE.name)
    scores = known if known is not None else pl.concat([read.scores for read in reads])
    kept = tables.get(EXPLANATION_EMBEDDINGS.name)
    if kept is not None:
        explainers = explained["llm_explainer"].cast(pl.String).unique().to_list()
        explainers += scores["llm_explainer"].cast(pl.String).unique().to_list()
        explained = kept.filter(pl.col("llm_explainer").cast(pl.String).is_in(explainers))
    report = save_drafts(store, explained, copies, scores, reads[0].source.path)
    if report is None:
        return []
    counts = report.labels
    told = f"{counts.added} drafts of labels added to {report.labels_file}"
    told += f", {counts.revised} revised" if counts.revised else ""
    told += f", {counts.unchanged} there already" if counts.unchanged else ""
    told += f", {report.n_conflicts} left as somebody changed them" if report.n_conflicts else ""
    return [told, *(f"note: no draft, {one.where}: {one.why}" for one in report.skipped)]
