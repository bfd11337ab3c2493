"""From the options of `train-sae`, with or without a config file, to a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import RunConfig
from pipeline.set_config import SetRunConfig, load_run
from pipeline.training.config import ONLY_FOR, TrainSaeConfig
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen, describe_validation

FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
CHOICE = ("architecture", "l1_coeff", "l0_coeff", "matryoshka_widths")
"""Any of these says which architecture."""
TEXT = ("model", "dataset")
SETS = ("adapter", "model_checkpoint", "data_csv", "vocab_path")


class Sources(Frozen):
    """What to train on, as the command line names it; None where an option was not given."""

    model: str | None = None
    revision: str | None = None
    dataset: Path | None = None
    text_column: str | None = None
    token_ids_column: str | None = None
    unit_column: str | None = None
    context_size: int | None = None
    prepend_bos: bool | None = None
    adapter: Path | None = None
    model_checkpoint: Path | None = None
    data_csv: Path | None = None
    vocab_path: Path | None = None
    weapon_vocab_path: Path | None = None
    views: int | None = None
    hook_target: str | None = None


def training_run(
    config: Path | None, sources: Sources, train: Mapping[str, Any], save_dir: Path | None
) -> tuple[RunConfig | SetRunConfig, Path]:
    """The run to train on, and where the SAE goes.

    Raises:
        BadInput: options that do not go together, or with the config file.
    """
    given = sources.model_dump(exclude_none=True)
    if config is None:
        if save_dir is None:
            raise BadInput("--save-dir is missing: the folder that the SAE goes to")
        return run_of_options(sources, given, save_dir, train_section({}, train)), save_dir
    others = sorted(given.keys() - {"hook_target", "context_size", "prepend_bos"})
    if others:
        raise BadInput(f"{config} says what to train on; leave out {', '.join(map(option, others))}")
    run = load_run(config)
    found = run.sae.train
    section = train_section({} if found is None else set_fields(found), train)
    if isinstance(run, SetRunConfig):
        if save_dir is None:
            raise BadInput("--save-dir is missing: the folder that the SAE goes to")
        sae: Any = run.sae.model_copy(update={"train": section, "path": None})
        return run.model_copy(update={"sae": sae, "hook": sources.hook_target or run.hook}), save_dir
    where = save_dir or run.sae.path
    if where is None:
        raise BadInput("give --save-dir, or sae.path in the config: the folder that the SAE goes to")
    told: dict[str, Any] = {name: given[name] for name in ("context_size", "prepend_bos") if name in given}
    hook = sources.hook_target or run.sae.hook_name
    update = {"train": section, "hook_name": hook, "path": where, "release": None, "sae_id": None}
    return run.model_copy(
        update={
            "sae": run.sae.model_copy(update=update),
            "tokenize": run.tokenize.model_copy(update=told),
        }
    ), where


def run_of_options(
    sources: Sources, given: Mapping[str, Any], save_dir: Path, train: TrainSaeConfig
) -> RunConfig | SetRunConfig:
    """A run of either kind from options alone."""
    text, sets = [name for name in TEXT if name in given], [name for name in SETS if name in given]
    if text and sets:
        raise BadInput(
            f"{option(text[0])} is of a training on text, {option(sets[0])} of one on sets; give one kind"
        )
    if not text and not sets:
        raise BadInput(
            "nothing to train on: give a config file; or --model and --dataset (text); or --adapter,"
            " --model-checkpoint, --data-csv and --vocab-path (sets)"
        )
    missing = [name for name in (TEXT if text else SETS) if name not in given]
    if missing:
        raise BadInput(f"{', '.join(map(option, missing))} must be given too")
    name = "".join(c if c.isalnum() or c in "_.-" else "-" for c in save_dir.resolve().name)
    content = {"name": name, **(text_sections if text else set_sections)(sources, save_dir, train)}
    kind = RunConfig if text else SetRunConfig
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise BadInput(f"the options do not fit: {describe_validation(error)}") from error


def text_sections(sources: Sources, save_dir: Path, train: TrainSaeConfig) -> dict[str, Any]:
    """A run's sections for documents and a language model."""
    assert sources.model is not None, "checked before"
    assert sources.dataset is not None, "checked before"
    folder = Path(sources.model).expanduser()
    if not folder.is_dir() and sources.revision is None:
        raise BadInput(
            f"--model {sources.model}: there is no such directory; a hub name needs --revision COMMIT"
        )
    model: dict[str, Any] = {"path": folder.resolve()} if folder.is_dir() else {"hub": sources.model}
    if sources.revision is not None:
        model["revision"] = sources.revision
    dataset = sources.dataset.expanduser().resolve()
    format = "huggingface" if dataset.is_dir() else FORMATS.get(dataset.suffix.lower())
    if format is None:
        raise BadInput(
            f"--dataset {dataset.name}: known are {', '.join(FORMATS)} and folders of save_to_disk;"
            " for others write a config file (docs/train-sae.md)"
        )
    columns = {
        "text": sources.text_column,
        "token_ids": sources.token_ids_column,
        "unit": sources.unit_column,
    }
    if sources.text_column is None and sources.token_ids_column is None:
        columns["text"] = "text"
    tokenize = {"context_size": sources.context_size, "prepend_bos": sources.prepend_bos}
    return {
        "model": model,
        "dataset": {"format": format, "path": dataset} | _given(columns),
        "sae": {"path": save_dir, "train": train, "hook_name": sources.hook_target},
        "tokenize": _given(tokenize),
    }


def set_sections(sources: Sources, save_dir: Path, train: TrainSaeConfig) -> dict[str, Any]:
    """A run's sections for the storage guide's files and an adapter."""
    files = {
        "checkpoint": sources.model_checkpoint,
        "vocab": sources.vocab_path,
        "weapon_vocab": sources.weapon_vocab_path,
    }
    dataset: dict[str, Any] = {
        "format": "tokenized_csv",
        "path": sources.data_csv,
        "vocab": sources.vocab_path,
        "weapon_vocab": sources.weapon_vocab_path,
    }
    views = 5 if sources.views is None else sources.views
    paths = {name: path.expanduser().resolve() for name, path in files.items() if path is not None}
    return {
        "kind": "set",
        "model": {"adapter": sources.adapter and sources.adapter.expanduser().resolve(), "files": paths},
        "hook": sources.hook_target or "masked_mean",
        "dataset": {
            name: value.expanduser().resolve() if isinstance(value, Path) else value
            for name, value in _given(dataset).items()
        }
        | ({"views": {"n": views}} if views else {}),
        "sae": {"train": train},
    }


def train_section(found: Mapping[str, Any], given: Mapping[str, Any]) -> TrainSaeConfig:
    """The settings of the config file, where the command line says nothing else.

    Another architecture leaves behind what the file says for its own alone.
    """
    try:
        line = TrainSaeConfig.model_validate({name: v for name, v in _given(given).items() if name in CHOICE})
        if (
            line.model_fields_set
            and line.architecture != TrainSaeConfig.model_validate(dict(found)).architecture
        ):
            of_file = {name for name, of in ONLY_FOR.items() if line.architecture not in of}
            found = {name: v for name, v in found.items() if name not in {*of_file, "architecture"}}
        return TrainSaeConfig.model_validate({**found, **_given(given)})
    except ValidationError as error:
        raise BadInput(f"how to train: {describe_validation(error)}") from error


def set_fields(section: TrainSaeConfig) -> dict[str, Any]:
    """What was said, defaults left out."""
    return {name: getattr(section, name) for name in section.model_fields_set}


def option(name: str) -> str:
    """The option that a field is given by."""
    return "--" + name.replace("_", "-")


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
