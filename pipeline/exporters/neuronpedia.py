"""A store in Neuronpedia's layout of imports: what its admins (or a self-hosted instance) take in.

`OUT/MODEL/SOURCE/` holds release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl, and batches of 1,024 features under
features/, activations/ and explanations/; `OUT/config/` the kinds and models of explanations that it names. Their
import takes the columns of a file from its first line and inserts rows as they are, so all lines of a file have the
same keys, and a column that may not be null is left out or filled. Times are left out: their database sets them.
A sampled store knows nothing of most of its features: those have no record, rather than one that calls them silent.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.exporters.folder import Progress, ranges
from pipeline.exporters.neuronpedia_labels import write_labels
from pipeline.exporters.neuronpedia_lines import BATCH, Origin, cuid, write_lines
from pipeline.exporters.source_rows import opened
from pipeline.parallel import run_tasks
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.labels.revisions import current_labels
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.validation.tables import PUBLISHED

INTERVALS, OF_INTERVAL = 5, 5
"""Equal parts of the range up to the maximum, and examples drawn from each (SAEDashboard's defaults)."""
BARS = 50
SHOWN = 10
SEED = 0


def export_neuronpedia(
    store: Path, out: Path, origin: Origin, top_k: int, workers: int, progress: Progress
) -> dict[str, int]:
    """Write the layout; how many features, examples and explanations.

    Raises:
        BadInput: nobody said which model and source.
        NotInStore: a store of sets, whose samples are no texts.
    """
    rows = opened(store)
    if not rows.store.is_sequence:
        raise NotInStore(
            f"store {rows.store.name!r} holds sets; Neuronpedia shows texts, tokens in an order with an activation each"
        )
    origin.check()
    folder = out / origin.model_id / origin.layer
    for part in ("features", "activations", "explanations"):
        (folder / part).mkdir(parents=True)
    _write_records(folder, origin, rows.store)
    task = partial(_write_batch, store=store, folder=folder, origin=origin, top_k=top_k)
    counts = list(run_tasks(task, ranges(rows.n_features, BATCH), workers, progress))
    n_features, n_examples = (sum(part) for part in zip(*counts, strict=True))
    n_labels = write_labels(rows.store, out, folder / "explanations", origin)
    return {"features": n_features, "examples": n_examples, "explanations": n_labels}


def _write_records(folder: Path, origin: Origin, store: Store) -> None:
    """The four records of what the features belong to."""
    manifest = store.manifest
    about = {"creatorId": origin.creator_id}
    dataset = (manifest.dataset or {}).get("name")
    name, source_set = origin.release_name, origin.source_set
    description = f"Store {manifest.name} of saeinterp, {manifest.n_features} features"
    lengths = np.diff(store.first_token)
    records: dict[str, dict[str, Any]] = {
        "release": {
            "name": name, "description": description, "descriptionShort": name, "urls": [],
            "creatorName": origin.creator_name, "creatorNameShort": origin.creator_name,
            "visibility": "PUBLIC", **about,
        },
        "model": {
            "id": origin.model_id, "instruct": False, "displayName": origin.model_id,
            "displayNameShort": origin.model_id, "layers": 0, "neuronsPerLayer": 0, "owner": "", **about,
        },
        "sourceset": {
            "modelId": origin.model_id, "name": source_set, "description": description, "type": "",
            "creatorName": origin.creator_name, "urls": [], "releaseName": name, "visibility": "PUBLIC", **about,
        },
        "source": {
            "id": origin.layer, "modelId": origin.model_id, "setName": source_set, "visibility": "PUBLIC",
            "hasDashboards": True, "inferenceEnabled": False, "dataset": dataset,
            "saelensConfig": {"d_sae": manifest.n_features},
            "num_prompts": manifest.n_samples, "num_tokens_in_prompt": int(lengths.max(initial=0)), **about,
        },
    }  # fmt: skip
    for part, record in records.items():
        write_lines(folder / f"{part}.jsonl", [record])


class Example(NamedTuple):
    """A sample that stands for a feature, and the group it is shown in."""

    sample: int
    """Stored."""
    low: float | None
    high: float | None
    contains: float | None
    """Share of the rows in the group; -1 for the strongest, None where nobody can know."""


def _write_batch(
    features: tuple[int, int], store: Path, folder: Path, origin: Origin, top_k: int
) -> tuple[int, int]:
    """How many features and examples were written; no files where there is none."""
    found = opened(store).store
    number = features[0] // BATCH
    writer = _Batch(found, origin, top_k, features)
    records, examples = [], []
    for feature in filter(writer.knows, range(*features)):
        record, shown = writer.feature(feature)
        records.append(record)
        examples += shown
    if records:
        write_lines(folder / "features" / f"batch-{number}.jsonl.gz", records)
        write_lines(folder / "activations" / f"batch-{number}.jsonl.gz", examples)
    return len(records), len(examples)


class _Batch:
    """Makes the records of features and their examples."""

    def __init__(self, store: Store, origin: Origin, top_k: int, features: tuple[int, int]) -> None:
        self.store, self.origin, self.top_k = store, origin, top_k
        self.full = store.manifest.coverage == "full"
        self.base = {"modelId": origin.model_id, "layer": origin.layer}
        tables = None if self.full else store.validation
        self.published = tables is not None and tables.has(PUBLISHED.name)
        self.theirs: dict[int, dict[str, Any]] = {}
        """What somebody published about a feature, where the store is an import of that."""
        if tables is not None and self.published:
            here = pl.col("feature_id").is_between(*features, closed="left")
            rows = tables.table(PUBLISHED.name).filter(here).collect().iter_rows(named=True)
            for row in rows:
                self.theirs.setdefault(row["feature_id"], row)
        labels = [] if self.full else current_labels(store.need_labels, store.lineage, range(*features))
        self.labelled = {label.feature for label in labels}

    def knows(self, feature: int) -> bool:
        """Whether there is anything to say of it; their explanations refer to a record, so a label counts."""
        return (
            self.full
            or feature in self.theirs
            or feature in self.labelled
            or len(self.store.activations(feature)[1]) > 0
            or bool(self._outputs(feature, "promoted") or self._outputs(feature, "suppressed"))
        )

    def feature(self, feature: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Its record and those of its examples."""
        rows, values = self.store.activations(feature)
        samples, first, strongest = _by_sample(self.store, rows, values)
        chosen = self._chosen(feature, samples, strongest)
        pairs = {
            int(s): slice(int(a), int(b)) for s, a, b in zip(samples, first[:-1], first[1:], strict=True)
        }
        shown = [
            self._example(feature, number, one, rows[pairs[one.sample]], values[pairs[one.sample]])
            for number, one in enumerate(chosen)
        ]
        return self._record(feature, values), shown

    def _chosen(self, feature: int, samples: NDArray[Any], strongest: NDArray[Any]) -> list[Example]:
        """The strongest samples; of a full store some of each part of the range too, of a sampled one all it has."""
        if not len(samples):
            return []
        order = np.lexsort((self.store.source[samples], -strongest))
        top, rest = order[: self.top_k], order[self.top_k :]
        maximum = _short(strongest[order[0]])
        found = [Example(int(s), -1, maximum, -1) for s in samples[top]]
        if not self.full:
            return found + [Example(int(s), None, None, None) for s in samples[rest]]
        return found + self._of_intervals(feature, samples[rest], strongest[rest], maximum)

    def _of_intervals(
        self, feature: int, samples: NDArray[Any], strongest: NDArray[Any], maximum: float
    ) -> list[Example]:
        edges = np.linspace(0, maximum, INTERVALS + 1)
        _, values = self.store.activations(feature)
        n_rows = self.store.n_rows("all")
        found: list[Example] = []
        for part in range(INTERVALS - 1, -1, -1):
            low, high = float(edges[part]), float(edges[part + 1])
            n_silent = n_rows - len(values) if part == 0 else 0
            share = (int(((values >= low) & (values <= high)).sum()) + n_silent) / max(n_rows, 1)
            inside = np.flatnonzero((strongest > low) & (strongest <= high))
            draw = rng(SEED, "neuronpedia", feature, part).permutation(len(inside))[:OF_INTERVAL]
            found += [Example(int(s), low, high, share) for s in samples[np.sort(inside[draw])]]
        return found

    def _example(
        self, feature: int, number: int, one: Example, rows: NDArray[Any], values: NDArray[Any]
    ) -> dict[str, Any]:
        tokens = [self.store.tokens[i] for i in self.store.tokens_of_sample(one.sample).tolist()]
        spread: list[float] = [0.0] * len(tokens)
        for position, value in zip(self.store.row_position[rows].tolist(), values.tolist(), strict=True):
            spread[position] = _short(value)
        at = max(range(len(spread)), key=lambda i: (spread[i], -i))
        return {
            "id": cuid(self.origin.model_id, self.origin.layer, feature, number),
            **self.base,
            "index": str(feature),
            "creatorId": self.origin.creator_id,
            "dataSource": self.store.manifest.name,
            "dataIndex": str(int(self.store.source[one.sample])),
            "tokens": tokens,
            "values": spread,
            "maxValue": spread[at],
            "maxValueTokenIndex": at,
            "minValue": min(spread),
            "dfaValues": [],
            "lossValues": [],
            "binMin": one.low,
            "binMax": one.high,
            "binContains": one.contains,
            "qualifyingTokenIndex": at,
        }

    def _record(self, feature: int, values: NDArray[Any]) -> dict[str, Any]:
        theirs = self.theirs.get(feature, {})
        heights, edges = np.histogram(values, BARS) if self.full and len(values) else ((), ())
        centres = (np.asarray(edges[1:]) + np.asarray(edges[:-1])) / 2 if len(edges) else ()
        promoted, suppressed = (self._outputs(feature, side) for side in ("promoted", "suppressed"))
        record: dict[str, Any] = {
            **self.base,
            "index": str(feature),
            "sourceSetName": self.origin.source_set,
            "creatorId": self.origin.creator_id,
            "maxActApprox": self._maximum(theirs, values),
            "hasVector": False,
            "vector": [],
            **self._similar(feature, theirs),
            "pos_str": [t for t, _ in promoted] or _of(theirs, "promoted", "token"),
            "pos_values": [v for _, v in promoted] or _of(theirs, "promoted", "value"),
            "neg_str": [t for t, _ in suppressed] or _of(theirs, "suppressed", "token"),
            "neg_values": [v for _, v in suppressed] or _of(theirs, "suppressed", "value"),
            "freq_hist_data_bar_heights": [int(h) for h in heights] or theirs.get("histogram_heights") or [],
            "freq_hist_data_bar_values": [float(f"{c:.6g}") for c in centres]
            or theirs.get("histogram_values")
            or [],
            "logits_hist_data_bar_heights": theirs.get("logits_heights") or [],
            "logits_hist_data_bar_values": theirs.get("logits_values") or [],
        }
        if self.full:
            record["frac_nonzero"] = len(values) / max(self.store.n_rows("all"), 1)
        elif self.published:
            record["frac_nonzero"] = theirs.get("frac_nonzero") or 0.0  # their column may not be null
        return record

    def _maximum(self, theirs: dict[str, Any], values: NDArray[Any]) -> float | None:
        """None where nobody knows; only a full store knows that a feature without activations is silent."""
        said: float | None = theirs.get("max_act_approx")
        if len(values) and not said:
            return _short(values.max())
        return 0.0 if self.full else said

    def _outputs(self, feature: int, side: str) -> list[tuple[str, float]]:
        if not self.store.backend.has(f"outputs/{side}/tokens"):
            return []
        tokens = self.store.list_of_feature(f"outputs/{side}/tokens", feature)[:SHOWN]
        effects = self.store.list_of_feature(f"outputs/{side}/effects", feature)[:SHOWN]
        return [(self.store.output_tokens[t], _short(e)) for t, e in zip(tokens, effects, strict=True)]

    def _similar(self, feature: int, theirs: dict[str, Any]) -> dict[str, Any]:
        features, cosines = (_of(theirs, "similar", n) for n in ("feature_id", "cosine_similarity"))
        if self.store.backend.has("neighbours/decoder/features"):
            features = self.store.list_of_feature("neighbours/decoder/features", feature)[:SHOWN].tolist()
            scores = self.store.list_of_feature("neighbours/decoder/scores", feature)[:SHOWN]
            cosines = [_short(score) for score in scores]
        return {"topkCosSimIndices": features, "topkCosSimValues": cosines}


def _of(theirs: dict[str, Any], table: str, name: str) -> list[Any]:
    return [row[name] for row in theirs.get(table) or ()]


def _by_sample(
    store: Store, rows: NDArray[Any], values: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Samples (n,) that hold the rows, offsets (n + 1,) of their rows, and the largest value of each."""
    sample = np.asarray(store.row_sample[rows], np.int64)
    if not len(sample):
        return sample, np.zeros(1, np.int64), values
    cuts = np.flatnonzero(np.diff(sample)) + 1
    first = np.concatenate([[0], cuts, [len(sample)]])
    return sample[first[:-1]], first, np.maximum.reduceat(values, first[:-1])


def _short(value: Any) -> float:
    """The shortest decimal that is this float32 again."""
    return float(str(np.float32(value)))
