"""What `where` and `sort` of a search may name: metrics of the store, and those of the tables beside it."""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeinterp_mcp.errors import NotInStore, UnknownName, nearest
from saeinterp_mcp.rules import MetricFilter, Selection, evaluate_metric_filter, parse_metric_filter
from saeinterp_mcp.rules.quoting import named, placed
from saeinterp_mcp.store.base import Bools, Store
from saeinterp_mcp.store.manifest import Split
from saeinterp_mcp.validation.folder import Validation
from saeinterp_mcp.validation.metrics import METRICS as VALIDATED
from saeinterp_mcp.validation.metrics import Metric, Selected, has_rows, metric, names
from saeinterp_mcp.validation.names import sae_id

Floats = NDArray[np.float64]
STORED = ("firing_rate", "n_firing", "mean", "max", "effective_max", "effect_norm", "importance")
METRICS = (*STORED, *VALIDATED)
_MODEL = re.compile(r"[\w.+/:-]{1,100}", re.ASCII)


class FeatureFilter(NamedTuple):
    """A `where` that was read and whose names exist."""

    text: str | None
    root: MetricFilter | None
    selected: Selected
    validation: Validation | None
    """Of the selected rows; None where nothing was selected."""

    def mask(self, metrics: "Metrics") -> Bools:
        """(F,) features that it keeps: they have a selected row, where rows are selected, and their metrics fit."""
        if self.root is None:
            return np.ones(len(metrics), bool)
        kept = evaluate_metric_filter(self.root, metrics)
        if self.validation is not None:
            kept &= has_rows(self.validation, len(metrics), self.selected)
        return kept


class Metrics(Mapping[str, Floats]):
    """Metric to its value of every feature, (F,), worked out when it is asked for. Its length is F."""

    def __init__(self, store: Store, split: Split, selected: Selected = Selected()) -> None:
        self._store, self._split, self._selected = store, split, selected

    def __getitem__(self, name: str) -> Floats:
        if name in STORED:
            from saeinterp_mcp.operations.features_search import feature_metrics

            return feature_metrics(self._store, self._split)[name]
        check_metric(name, self._store)
        values = self._of_tables(name).values
        if name == "feature_splitting" and self._store.backend.has("neighbours/decoder/scores"):
            own = np.asarray(self._store.backend.column("neighbours/decoder/scores")[:, 0], np.float64)
            values = np.where(np.isnan(values), own, values)
        return values

    def n_averaged(self, name: str) -> NDArray[np.int64]:
        """(F,) values that a metric of the tables is the mean of."""
        return self._of_tables(name).n.astype(np.int64)

    def _of_tables(self, name: str) -> Metric:
        return metric(self._store.need_validation, name, len(self), self._selected)

    def __iter__(self) -> Iterator[str]:
        return iter(METRICS)

    def __len__(self) -> int:
        return self._store.manifest.n_features


def read_filter(text: str | None, store: Store) -> FeatureFilter:
    """A filter on features.

    Raises:
        BadInput, UnknownName: it cannot be read, or names what does not exist.
        NotInStore: it needs tables that are not there.
    """
    if text is None or not text.strip():
        return FeatureFilter(text, None, Selected(), None)
    root = parse_metric_filter(text, METRICS)
    for name in root.metrics():
        check_metric(name, store)
    if not root.selections():
        return FeatureFilter(text, root, Selected(), None)
    validation = store.need_validation
    return FeatureFilter(text, root, _selected(root, validation), validation)


def check_metric(name: str, store: Store) -> None:
    """Refuse a metric to sort by that does not exist, or one of tables that are not there.

    Raises:
        UnknownName, NotInStore
    """
    if name not in METRICS:
        raise UnknownName(f"no metric {name!r} to sort by; there are: {', '.join(known_metrics(store))}")
    if name in VALIDATED and store.backend.folder is None:
        raise NotInStore(
            f"{name} is of tables beside a store, and store {store.name!r} is not on this machine"
        )
    if name in VALIDATED:
        _ = store.need_validation


def known_metrics(store: Store) -> tuple[str, ...]:
    """Those that can be asked about in this store."""
    return METRICS if store.validation is not None else STORED


def _selected(root: MetricFilter, validation: Validation) -> Selected:
    known = names(validation)._asdict() | {"saes": (validation.manifest.sae_id,)}
    chosen: dict[str, frozenset[str]] = {}
    for selection in root.selections():
        field = f"{selection.name}s"
        wanted = frozenset(_wanted(selection, known[field], root.text))
        chosen[field] = chosen.get(field, wanted) & wanted
    if not chosen.pop("saes", {""}):
        chosen["explainers"] = frozenset()  # another SAE than that of the tables: no row
    return Selected(**chosen)


def _wanted(selection: Selection, known: tuple[str, ...], text: str) -> set[str]:
    """The names that a selection lets through."""
    spelled = [sae_id(value) if selection.name == "sae" else value for value in selection.values]
    for value, place in zip(spelled, selection.places[1:], strict=True):
        if value not in known:
            problem = f"there is no {selection.name} {named(value)}; {_like(value, known)}"
            raise placed(UnknownName, problem, text, place)
    return {*known} - {*spelled} if selection.op == "!=" else {*spelled}


def _like(name: str, known: tuple[str, ...]) -> str:
    """The nearest names, or the first ones that are plain (a model's name has slashes): others may not be quoted."""
    plain = {one.rsplit("/", 1)[-1]: one for one in known if _MODEL.fullmatch(one)}
    told = nearest(name, known)
    if "nearest" in told or not plain:
        return told
    close = difflib.get_close_matches(name, plain, 3, cutoff=0.5)
    shown = [repr(plain[one]) for one in close or sorted(plain)[:8]]
    return f"{'nearest' if close else 'there are'}: {', '.join(shown)}"
