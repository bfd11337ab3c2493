"""What goes beside a store that was imported from somebody's dashboard: its figures, and explanations as drafts."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.importers.json_lines import BadPart, is_number
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.database import labels_beside
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.store.manifest import read_manifest
from saeinterp_mcp.validation.folder import folder_beside
from saeinterp_mcp.validation.names import sae_id as spelled

if TYPE_CHECKING:
    import polars as pl

    from saeinterp_mcp.labels.exchange.records import ImportReport, Target

THEIRS = "figures of {source}, as they stood there; they were not computed from this store"


class PublishedFigures:
    """Rows of the table `published_features`, one a feature."""

    def __init__(self) -> None:
        self._rows: dict[int, dict[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def highest(self) -> int:
        """The highest feature; -1 where there is none."""
        return max(self._rows, default=-1)

    def add(self, feature: int, row: Mapping[str, Any]) -> None:
        """Append a feature.

        Raises:
            BadPart: it is there already.
        """
        if feature in self._rows:
            raise BadPart("feature twice", f"feature {feature} is there twice")
        self._rows[feature] = dict(row)

    def unknown_rate(self, firing: Callable[[int], bool]) -> int:
        """A share of 0 of a feature that has activations is not known; how many those were."""
        wrong = [f for f, row in self._rows.items() if row["frac_nonzero"] == 0 and firing(f)]
        for feature in wrong:
            self._rows[feature]["frac_nonzero"] = None
        return len(wrong)

    def frame(self, sae: str, source: str) -> "pl.DataFrame":
        """The table."""
        import polars as pl

        from saeinterp_mcp.validation.tables import PUBLISHED

        rows = [
            {"feature_id": feature, "sae_id": sae, "data_source": source, **row}
            for feature, row in sorted(self._rows.items())
        ]
        return pl.DataFrame(rows, schema=PUBLISHED.schema)


def figures_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """A row, of a feature's record as Neuronpedia and SAEDashboard spell it.

    Raises:
        BadPart: a figure of a wrong type, or lists that do not go together.
    """
    return {
        "frac_nonzero": _number(values, "frac_nonzero", 0, 1),
        "max_act_approx": _number(values, "maxActApprox", 0),
        "n_prompts_total": _whole(values, "n_prompts_total"),
        "n_tokens_in_prompt": _whole(values, "n_tokens_in_prompt"),
        "histogram_values": _numbers(values, "freq_hist_data_bar_values"),
        "histogram_heights": _numbers(values, "freq_hist_data_bar_heights"),
        "logits_values": _numbers(values, "logits_hist_data_bar_values"),
        "logits_heights": _numbers(values, "logits_hist_data_bar_heights"),
        "promoted": _pairs(values, "pos_str", "pos_values", ("token", "value"), str),
        "suppressed": _pairs(values, "neg_str", "neg_values", ("token", "value"), str),
        "similar": _pairs(
            values, "topkCosSimIndices", "topkCosSimValues", ("feature_id", "cosine_similarity"), int
        ),
    }


def _number(values: Mapping[str, Any], name: str, low: float, high: float = math.inf) -> float | None:
    value = values.get(name)
    if value is None:
        return None
    if not is_number(value) or not low <= value <= high:
        raise BadPart(f"{name} is no such figure", f"{name} is {str(value)[:40]}")
    return float(value)


def _whole(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    if value is not None and (type(value) is not int or not 0 <= value < 2**32):
        raise BadPart(f"{name} is no count", f"{name} is {str(value)[:40]}")
    return value


def _numbers(values: Mapping[str, Any], name: str) -> list[float] | None:
    """None where it is missing or empty."""
    found = values.get(name)
    if not found:
        return None
    if not isinstance(found, list) or not all(map(is_number, found)):
        raise BadPart(f"{name} are no numbers", f"{name} is no list of finite numbers")
    return [float(v) for v in found]


def _pairs(
    values: Mapping[str, Any], keys: str, numbers: str, names: tuple[str, str], kind: type
) -> list[dict[str, Any]] | None:
    left, right = values.get(keys), _numbers(values, numbers)
    if not left or right is None:
        return None
    fits = isinstance(left, list) and len(left) == len(right) and all(type(one) is kind for one in left)
    if not fits or (kind is int and not all(0 <= one < 2**32 - 1 for one in left)):
        raise BadPart(f"{keys} and {numbers}", f"{keys} and {numbers} do not go together")
    return [dict(zip(names, pair, strict=True)) for pair in zip(left, right, strict=True)]


def publish_figures(store: Path, figures: PublishedFigures, sae: str, source: str) -> tuple[str, ...]:
    """Put the figures into the table beside the store; what to tell of it."""
    from pipeline.validation.publish import publish_tables
    from saeinterp_mcp.validation.tables import PUBLISHED

    if not len(figures):
        return ()
    manifest, out = read_manifest(store), folder_beside(store)
    name = spelled(sae)
    changed = publish_tables(
        out,
        manifest.name,
        name,
        manifest.n_features,
        manifest.lineage or manifest.fingerprint(),
        {PUBLISHED.name: figures.frame(name, source)},
        [THEIRS.format(source=source)],
    )
    where = f"{len(figures)} features of {source}: {PUBLISHED.name} in {out}"
    return (f"figures of {where}" if changed else f"the figures of {where} were there already",)


def target_of(store: Path) -> "Target":
    """A store just made, as the files of labels see it. For explanations: no rules, no evidence."""
    manifest = read_manifest(store)
    return bare_target(manifest.name, manifest.lineage or manifest.fingerprint(), manifest.n_features, store)


def bare_target(name: str, lineage: str, n_features: int, store: Path | None = None) -> "Target":
    """The same, of a store that may not be there yet."""
    from saeinterp_mcp.labels.database import LabelsInMemory
    from saeinterp_mcp.labels.exchange.records import Target

    return Target(
        name=name,
        lineage=lineage,
        n_features=n_features,
        database=LabelsInMemory() if store is None else labels_beside(store),
        normal_rule=_no_rule,
        importance=lambda feature: None,  # activations of a sampled store do not tell it
        check_call=_no_call,
    )


def _no_rule(label: Label) -> tuple[Label, str | None]:
    assert label.rule is None, "explanations bring no rules"
    return label, None


def _no_call(operation: str, arguments: Mapping[str, Any]) -> None:
    raise BadInput(f"{operation[:40]!r} is no evidence that an import of activations brings")


def take_explanations(store: Path, files: Sequence[Path], policy: Literal["skip", "stop"]) -> tuple[str, ...]:
    """Explanations in Neuronpedia's form become drafts in the store's labels; what to tell of it."""
    from saeinterp_mcp.labels.exchange import neuronpedia
    from saeinterp_mcp.labels.exchange.importing import Import
    from saeinterp_mcp.labels.exchange.records import Options

    if not files:
        return ()
    target, options = target_of(store), Options()
    reports: list[ImportReport] = []
    n_damaged = 0
    for file in files:
        taking = Import(file, neuronpedia.NAME, target, neuronpedia.read_source(file), "both", policy)
        try:
            reports.append(taking.run(lambda file=file: neuronpedia.read(file, target, options), False))  # type: ignore[misc]
        except BadInput:
            if policy == "stop":
                raise
            n_damaged += 1
    added, there, left = (
        sum(r.labels.added for r in reports),
        sum(r.labels.unchanged for r in reports),
        sum(r.n_skipped for r in reports),
    )
    told = f"{added} explanations became drafts of labels in {target.database.name}"
    told += f", {there} were there already" if there else ""
    told += f", {left} were left out" if left else ""
    return (told + (f"; {n_damaged} damaged files were left out whole" if n_damaged else ""),)
