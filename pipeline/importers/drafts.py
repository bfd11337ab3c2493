"""Explanations of other people's runs become drafts in the labels file beside a store."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.importers.published import target_of
from pipeline.importers.results.records import LEAK
from saeinterp_mcp.labels.exchange.checking import check_label
from saeinterp_mcp.labels.exchange.foreign import one_line
from saeinterp_mcp.labels.exchange.importing import Import
from saeinterp_mcp.labels.exchange.records import BadLine, ImportReport, Incoming, IncomingLabel, Source
from saeinterp_mcp.labels.records import MAX_EXPLANATION, MAX_NOTES, MAX_TEXT, Label
from saeinterp_mcp.labels.revisions import current_labels
from saeinterp_mcp.store.open import open_store

FORMAT = "delphi"
MAX_NAME = 200
"""Characters of a label's text where the explanation is too long to be one."""
MEASURES = {
    "fuzz": "balanced accuracy",
    "detection": "balanced accuracy",
    "simulation": "correlation",
    "embedding": "AUROC",
    "surprisal": "AUROC",
    "intruder": "share of right choices",
}
LEAKED, UNKNOWN = "leaked, no held-out test", "nobody says whether it was held out"
Key = tuple[int, str, str]
"""Feature, explainer, and a data source or a text."""


def save_drafts(
    store: Path, explanations: pl.DataFrame, copies: pl.DataFrame, scores: pl.DataFrame, path: Path
) -> ImportReport | None:
    """A draft for each explanation that is one; None where there is none. A second time nothing changes.

    Args:
        store: its folder.
        explanations: rows of `explanation_embeddings`.
        copies: the same with those rows whose text another source has too.
        scores: rows of `scores`, of these explanations.
        path: where they come from, for messages.
    """
    explained = _plain(explanations)
    rows = [row for row in explained if row["status"] == "ok"]
    if not rows:
        return None
    opened = open_store(store)
    target = replace(target_of(store), importance=lambda feature: _importance(opened, feature))
    tests = _tests(explained, _plain(copies), _plain(scores))
    sources = {
        (label.feature, label.author, label.claim): label.source
        for label in current_labels(target.database, target.lineage)
        if label.author_kind == "import" and (label.source or "").startswith(f"{FORMAT}:")
    }

    def read() -> Iterator[Incoming | BadLine]:
        for row in rows:
            label = _draft(row, tests)
            # the same words again, of a run that only scored them: one draft, which tells all scores
            known = sources.get((label.feature, label.author, label.claim))
            label = label if known is None else label.model_copy(update={"source": known})
            where = f"feature {label.feature}"
            try:
                check_label(label, target.n_features, where)
            except BadLine as error:
                yield error
            else:
                yield IncomingLabel(where, label)

    return Import(path, FORMAT, target, Source(), "keep", "skip").run(read, False)


def _tests(
    explained: list[dict[str, Any]], copies: list[dict[str, Any]], scores: list[dict[str, Any]]
) -> dict[Key, list[dict[str, Any]]]:
    """Text to its tests: a score is of the text of its own source, or of the first one where that has none."""
    own: dict[Key, str] = {}
    first: dict[tuple[int, str], str] = {}
    for row in [*explained, *copies]:
        feature, explainer, text = row["feature_id"], row["llm_explainer"], row["explanation_text"]
        own[feature, explainer, row["data_source"]] = text
        first.setdefault((feature, explainer), text)
    tests: dict[Key, list[dict[str, Any]]] = {}
    for test in scores:
        feature, explainer = test["feature_id"], test["llm_explainer"]
        text = own.get((feature, explainer, test["data_source"]), first.get((feature, explainer)))
        if text is not None:
            tests.setdefault((feature, explainer, text), []).append(test)
    return tests


def _draft(row: Mapping[str, Any], tests: Mapping[Key, list[dict[str, Any]]]) -> Label:
    explainer = row["llm_explainer"]
    text, explanation = _named(one_line(row["explanation_text"]))
    return Label(
        label_id="",
        feature=row["feature_id"],
        revision=1,
        text=text,
        explanation=explanation,
        notes=_notes(row, tests.get((row["feature_id"], explainer, row["explanation_text"]), [])),
        author=explainer[:100],
        author_kind="import",
        source=f"{FORMAT}:{row['data_source']}"[:MAX_NAME],
    )


def _named(line: str) -> tuple[str, str | None]:
    """(text, explanation) of a label: the whole line where it fits, else its beginning and as much as is kept."""
    if len(line) <= MAX_TEXT:
        return line, None
    return _cut(line, MAX_NAME), _cut(line, MAX_EXPLANATION)


def _cut(line: str, most: int) -> str:
    if len(line) <= most:
        return line
    return f"{line[: most - 2].rsplit(' ', 1)[0]} …"


def _notes(row: Mapping[str, Any], tests: list[dict[str, Any]]) -> str:
    """Where it comes from, and every score with its warning; what the warning means comes last."""
    lines = [f"Imported from {row['data_source']}; explained by {row['llm_explainer']}."]
    lines += [
        f"{_score_line(test)}; {LEAKED if test['held_out'] == 'leaked' else UNKNOWN}." for test in tests
    ]
    if any(test["held_out"] == "leaked" for test in tests):
        lines.append(f"Leaked: {LEAK}.")
    return "\n".join(lines)[:MAX_NOTES]


def _score_line(test: Mapping[str, Any]) -> str:
    judge = f" by {test['llm_scorer']}" if test["llm_scorer"] and test["method"] != "embedding" else ""
    what = f"{test['method']}{judge} ({test['data_source']})"
    failed = f", {test['n_failed']} unread" if test["n_failed"] else ""
    if test["score"] is None:
        return f"{what}: no score, {test['reason']}{failed}"
    interval = f" ({test['low']:.2f} to {test['high']:.2f})" if test["low"] is not None else ""
    low, high = test["chance_low"], test["chance_high"]
    chance = f", by chance {low:.2f} to {high:.2f}" if low is not None else ""
    return f"{what}: {MEASURES[test['method']]} {test['score']:.2f}{interval}{chance}, n {test['n']}{failed}"


def _plain(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows with strings for categories, in the order of features."""
    return (
        frame.with_columns(pl.col(pl.Categorical).cast(pl.String))
        .sort("feature_id", "llm_explainer", "data_source", maintain_order=True)
        .to_dicts()
    )


def _importance(store: Any, feature: int) -> float | None:
    from saeinterp_mcp.operations.features_search import importance_percentile

    return importance_percentile(store, feature)
