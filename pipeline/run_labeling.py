"""`run_labeling`: the autointerp seed's one function, its arguments and files, on a store of ours."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pipeline.fingerprint import write_whole
from pipeline.labeling.asked import AskedFeatures, asked_features, require_features
from pipeline.labeling.asking import LabelModel
from pipeline.labeling.examples import FeatureExamples, examples_of
from pipeline.labeling.labels import FeatureLabel, label_features
from pipeline.labeling.small_store import STORE, MadeStore, SmallRun, make_store
from pipeline.progress import Reporter, default_reporter
from saeinterp_mcp.asking.schema import SUFFIX
from saeinterp_mcp.config import VERSION
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import MANIFEST
from saeinterp_mcp.store.open import is_url, open_store

EXAMPLES, LABELS = "feature_examples.jsonl", "feature_labels.json"
ACTS_ON_DISPLAYS = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
"""Control characters that JSON lets stand, separators of lines, overrides of direction, half surrogate pairs."""
NO_MODEL = "none"
"""As `label_model_path`: search labels alone."""


def run_labeling(
    feature_indices: Sequence[int] | str | Path,
    model_path: str | Path | None = None,
    sae_path: str | Path | None = None,
    dataset_path: str | Path | None = None,
    sae_id: str | None = None,
    output_dir: str | Path = "results",
    n_samples: int = 1000,
    max_examples_per_feature: int = 20,
    device: str | None = None,
    column_name: str = "text",
    minibatch_size_features: int = 256,
    minibatch_size_tokens: int = 64,
    label_model_path: str | Path | None = None,
    max_examples_for_labeling: int = 10,
    feature_scores: Sequence[float] | None = None,
    *,
    store: str | Path | None = None,
    legacy_names: bool = False,
    split: Literal["explain", "all"] = "explain",
    vocabulary: str | Path | None = None,
    dataset_split: str | None = None,
    context_size: int | None = None,
    prepend_bos: bool | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    allow_checks: Sequence[str] = (),
    max_usd: float | None = None,
    progress: Reporter | None = None,
) -> dict[str, str]:
    """Find where features fire most, label them, and write both down.

    What is finished is kept: a run that was killed goes on, and asks nothing twice that was answered.

    Args:
        feature_indices: list of integers, `"11,313,251"`, or a JSON file with `feature_indices` and `scores`.
        model_path: Hugging Face directory, or a hub name (`NAME@COMMIT` to pin it).
        sae_path: SAELens directory, sparsify folder, release name; or a finished store.
        dataset_path: Parquet, JSON lines or CSV file, a folder of them or of `save_to_disk`, or a hub name.
        sae_id: where the SAE reads (`blocks.19.hook_resid_post`), or which of the release.
        output_dir: for the two files, the store and the ledger.
        n_samples: rows of the dataset to read, from its start.
        max_examples_per_feature: at most so many.
        device: `cpu`, `cuda:0`, ...; None takes a GPU if there is one.
        column_name: column of the text; `tokens` holds token ids.
        minibatch_size_features: accepted; memory is bounded without it.
        minibatch_size_tokens: contexts in a forward pass.
        label_model_path: directory of a causal language model, or a client such as `anthropic:MODEL`,
            `openai:MODEL@URL`; None is the subject model, `none` no model at all.
        max_examples_for_labeling: excerpts that the language model sees.
        feature_scores: the caller's number for each feature.
        store: a finished store: no model is run, and `model_path` to `sae_id` need not be given.
        legacy_names: `finance_score` in place of `score` in the examples, as in the seed.
        split: examples from the `explain` units alone, so that held-out tests stay blind; or from `all`.
        vocabulary: words that a search label may be made of, one a line; None is any word.
        dataset_split: of a dataset that has several; None is `train`.
        context_size: tokens of a sample, where the SAE's files do not say.
        prepend_bos: whether samples begin with BOS, where the SAE's files do not say.
        dtype: the model's number type; None is the one it was saved in.
        allow_checks: load checks that may fail.
        max_usd: ceiling on what the language model may cost.
        progress: who is told; default stderr.

    Returns:
        `examples_path` and `labels_path`.

    Raises:
        SaeInterpError: something given does not fit; the message says what, and what would.
    """
    asked = asked_features(feature_indices, feature_scores)
    n_examples = _count("max_examples_per_feature", max_examples_per_feature)
    n_for_labeling = _count("max_examples_for_labeling", max_examples_for_labeling)
    _count("minibatch_size_features", minibatch_size_features)
    n_at_once = _count("minibatch_size_tokens", minibatch_size_tokens)
    n_rows = _count("n_samples", n_samples)
    if split not in ("explain", "all"):
        raise BadInput(f"split is {split!r}; it is explain or all")
    out, reporter = Path(output_dir), progress or default_reporter()
    location, made = _finished_store(store, sae_path), None
    if location is None:
        small = SmallRun(
            model_path=_needed("model_path", model_path),
            sae_path=_needed("sae_path", sae_path),
            dataset_path=_needed("dataset_path", dataset_path),
            sae_id=sae_id,
            n_samples=n_rows,
            column_name=column_name,
            dataset_split=dataset_split,
            minibatch_size_tokens=n_at_once,
            device=device,
            dtype=dtype,
            context_size=context_size,
            prepend_bos=prepend_bos,
            allow_checks=tuple(allow_checks),
        )
        made = make_store(small, asked, out, reporter)
        location = str(made.folder)
    opened = open_store(location)
    require_features(asked, opened.manifest.n_features)
    out.mkdir(parents=True, exist_ok=True)
    records = list(examples_of(opened, asked, n_examples, split))
    _write_examples(out / EXAMPLES, records, legacy_names)
    model = _label_model(label_model_path, model_path, n_for_labeling, opened, out, max_usd)
    labelled = label_features(opened, records, model, vocabulary, reporter)
    provenance = _provenance(opened, asked, n_examples, split, made) | labelled.provenance
    _write_labels(out / LABELS, labelled.labels, provenance)
    return {"examples_path": str(out / EXAMPLES), "labels_path": str(out / LABELS)}


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"{name} is {value!r}; it must be a whole number from 1")
    return value


def _finished_store(store: str | Path | None, sae_path: str | Path | None) -> str | None:
    """The store to run from, if there is one: named as such, or in the place of the SAE."""
    if store is not None:
        return str(store)
    if sae_path is not None and (Path(sae_path) / MANIFEST).is_file() and not is_url(sae_path):
        return str(sae_path)
    return None


def _needed(name: str, value: str | Path | None) -> str:
    if value is None or not str(value):
        raise BadInput(
            f"{name} is not given and has no default; give model_path, sae_path and dataset_path, or store=PATH of a "
            "finished store"
        )
    return str(value)


def _label_model(
    label_model: str | Path | None,
    model: str | Path | None,
    n_examples: int,
    store: Store,
    out: Path,
    max_usd: float | None,
) -> LabelModel | None:
    """The subject model labels its own features where no other is named, as in the seed."""
    named = label_model if label_model is not None else model
    if named is None or not str(named) or str(label_model) == NO_MODEL:
        return None
    return LabelModel(
        spec=str(named),
        chosen=label_model is not None,
        revision=(store.manifest.model or {}).get("revision") if label_model is None else None,
        n_examples=n_examples,
        ledger=out / f"{STORE}{SUFFIX}",
        max_usd=max_usd,
    )


def _write_examples(path: Path, records: list[FeatureExamples], legacy_names: bool) -> None:
    write_whole(path, "".join(_json(record.as_line(legacy_names)) + "\n" for record in records))


def _write_labels(path: Path, labels: Sequence[FeatureLabel], provenance: dict[str, Any]) -> None:
    content = {
        "num_features": len(labels),
        "features": [label.model_dump(mode="json") for label in labels],
        "provenance": provenance,
    }
    write_whole(path, _json(content, indent=2) + "\n")


def _json(value: Any, indent: int | None = None) -> str:
    """JSON whose lines end where we end them, and which does nothing to the terminal that shows it."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return ACTS_ON_DISPLAYS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _provenance(
    store: Store, asked: AskedFeatures, n_examples: int, split: str, made: MadeStore | None
) -> dict[str, Any]:
    """What the files were made from: everything that decides them, no path of this machine."""
    manifest = store.manifest
    dataset = {name: value for name, value in (manifest.dataset or {}).items() if name != "special_ids"}
    return {
        "saeinterp": VERSION,
        "store": {
            "name": store.name,
            "fingerprint": store.fingerprint,
            "coverage": manifest.coverage,
            "n_samples": manifest.n_samples,
            "n_rows": manifest.n_rows,
        },
        "split": split,
        "n_rows_of_split": store.n_rows("explain" if split == "explain" else "all"),
        "max_examples_per_feature": n_examples,
        "model": manifest.model,
        "sae": manifest.sae,
        "dataset": dataset,
        "checks": manifest.checks,
        "made_here": made is not None,
        "rows_read_at_most": None if made is None else made.n_samples,
        "notes": [] if made is None else list(made.notes),
        "scores": "given by the caller" if asked.scores_given else "none given, all 0",
    }
