"""The small store that labels are made from: a run of our own stages, written down as its `run.yaml`."""

import os
from pathlib import Path
from typing import Any

import yaml

from pipeline.build import build_store
from pipeline.config import CollectConfig
from pipeline.fingerprint import write_whole
from pipeline.labeling.asked import AskedFeatures, require_features
from pipeline.labeling.given import SaeGiven, Section, dataset_section, model_section, sae_given
from pipeline.progress import Reporter
from pipeline.source_config import ModelConfig, SaeConfig
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen

RUN, STORE, WORK, SAE = "run.yaml", "store", "store.work", "sae"
"""What lies in the output folder."""
OUTPUTS = {"n_features": 4, "n_samples": 16, "n_samples_per_feature": 2, "min_firing": 4}
ALLOWED = ("direct_effect",)
"""Checks of the output side, which labels from examples do not read, and for which a small run is too small."""


class SmallRun(Frozen):
    """What `run_labeling` was told about model, SAE and text."""

    model_path: str
    sae_path: str
    dataset_path: str
    sae_id: str | None
    n_samples: int
    column_name: str
    dataset_split: str | None
    minibatch_size_tokens: int
    device: str | None
    dtype: str | None
    context_size: int | None
    prepend_bos: bool | None
    allow_checks: tuple[str, ...]


class MadeStore(Frozen):
    """The store, and what was assumed on the way."""

    folder: Path
    n_samples: int
    """Rows of the dataset that were read at most."""
    notes: tuple[str, ...]


def make_store(
    asked: SmallRun, features: AskedFeatures, output_dir: Path, progress: Reporter | None
) -> MadeStore:
    """Build `output_dir/store`, or go on with it, or find it done.

    Raises:
        UnknownName: the SAE does not have one of the features; said before anything is built.
        BadInput: something given does not fit, or the folder holds the store of another run.
    """
    from pipeline.sources.pretrained import give_memory_back

    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / RUN
    before = _read(path)
    sae, sections = _sections(asked, features, output_dir, before)
    if before is not None and (output_dir / STORE).exists():
        # how much goes through the model at once moves a last digit: no reason to build a finished store again
        sections["collect"] = before.get("collect")
        _require_same(before, sections, output_dir)
    write_whole(path, yaml.safe_dump(sections, sort_keys=False, allow_unicode=True))
    try:
        folder = build_store(path, progress=progress)
    except BadInput as error:
        if "checks.allow" not in str(error):
            raise
        raise BadInput(str(error).replace("checks.allow", "allow_checks")) from error
    assert folder is not None, "all stages ran"
    give_memory_back()
    return MadeStore(folder=folder, n_samples=asked.n_samples, notes=sae.notes)


def _sections(
    asked: SmallRun, features: AskedFeatures, output_dir: Path, before: Section | None
) -> tuple[SaeGiven, Section]:
    from pipeline.sources.saelens_format import read_header

    model = model_section(asked.model_path, asked.dtype, _pinned(before, "model"))
    config = ModelConfig(**model)
    given = (asked.context_size, asked.prepend_bos)
    sae = sae_given(asked.sae_path, asked.sae_id, config, output_dir.resolve() / SAE, *given)
    header = read_header(SaeConfig(**sae.section))
    require_features(features, header.n_features)
    dataset = dataset_section(
        asked.dataset_path, asked.column_name, asked.dataset_split, _pinned(before, "dataset")
    )
    size = sae.context_size or header.metadata.context_size
    cut = {"context_size": sae.context_size, "prepend_bos": sae.prepend_bos, "max_documents": asked.n_samples}
    return sae, {
        "name": "labeling",
        "model": model,
        "sae": sae.section,
        "dataset": dataset,
        "tokenize": {name: value for name, value in cut.items() if value is not None},
        "checks": {"allow": sorted({*ALLOWED, *asked.allow_checks})},
        "collect": {"batch_tokens": _batch_tokens(asked.minibatch_size_tokens, size)},
        "outputs": OUTPUTS,
        "store": {"out": STORE},
        "work": WORK,
        "execution": {
            "device": asked.device or "auto",
            "threads": max(1, min(8, (os.cpu_count() or 1) // 2)),
        },
    }


def _batch_tokens(n_at_once: int, context_size: int | None) -> int:
    """The seed's batch was so many contexts; more tokens at a time than our default only cost memory."""
    assert context_size is not None, "sae_given refuses a SAE without it"
    return min(n_at_once * context_size, CollectConfig().batch_tokens)


def _read(path: Path) -> Section | None:
    if not path.is_file():
        return None
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not valid YAML: {error}; remove it, or name another output_dir") from error
    return content if isinstance(content, dict) else None


def _pinned(before: Section | None, kind: str) -> dict[str, str]:
    """A run that goes on takes the commits it began with, whatever the hub holds by now."""
    section = (before or {}).get(kind) or {}
    return {section["hub"]: section["revision"]} if section.get("hub") else {}


def _require_same(before: Section, now: Section, output_dir: Path) -> None:
    changed = sorted(name for name in {*before, *now} - {"execution"} if before.get(name) != now.get(name))
    if changed:
        was = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in changed)
        raise BadInput(
            f"{output_dir} holds the store of another run ({was}). Name another output_dir, or give "
            f"store={str(output_dir / STORE)!r} to ask that one."
        )
