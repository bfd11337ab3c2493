"""What the seed's arguments name: a model, a SAE and a dataset, local or on the hub, as sections of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.source_config import ModelConfig, SaeConfig
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen

Section = dict[str, Any]
TABLES = {".parquet": "parquet", ".jsonl": "jsonl", ".json": "jsonl", ".csv": "csv"}
"""Ending of a file to its format."""
TOKENS = ("tokens", "token_ids", "input_ids")
"""Names of a column that mean token ids; the first is the seed's."""


class SaeGiven(Frozen):
    """A SAE as a run takes it, and how its text is to be cut."""

    section: Section
    context_size: int | None
    """Tokens of a sample where the SAE's own files do not say."""
    prepend_bos: bool | None
    notes: tuple[str, ...] = ()
    """What was assumed."""


def model_section(model_path: str, dtype: str | None, pinned: Mapping[str, str]) -> Section:
    """A local Hugging Face directory, or a hub name with the commit it means now.

    Args:
        model_path: folder, name, or NAME@COMMIT.
        dtype: number type to run in; None: the one it was saved in.
        pinned: hub name to the commit that an earlier run of the same folder took.
    """
    from pipeline.sources.pretrained import model_facts

    section = _located(model_path, "model", pinned)
    return {**section, "dtype": dtype or model_facts(ModelConfig(**section)).dtype}


def dataset_section(
    dataset_path: str, column_name: str, split: str | None, pinned: Mapping[str, str]
) -> Section:
    """A file (Parquet, JSON lines, CSV), a folder of them or of `save_to_disk`, or a hub name.

    Raises:
        BadInput: nothing of that is there.
    """
    column = {"token_ids" if column_name in TOKENS else "text": column_name}
    path = Path(dataset_path).expanduser()
    if path.is_file():
        if path.suffix not in TABLES:
            raise BadInput(f"dataset: {path} is none of {', '.join(TABLES)}")
        return {"format": TABLES[path.suffix], "path": str(path.resolve()), **column}
    if path.is_dir():
        return {**_folder(path.resolve(), split), **column}
    return {
        "format": "huggingface",
        **_located(dataset_path, "dataset", pinned),
        "split": split or "train",
        **column,
    }


def _folder(path: Path, split: str | None) -> Section:
    if (path / "dataset_dict.json").is_file():
        return {"format": "huggingface", "path": str(path), "split": split or "train"}
    if (path / "state.json").is_file() or (path / "dataset_info.json").is_file():
        return {"format": "huggingface", "path": str(path)}
    for place in (path, path / "data"):
        for ending, format_ in TABLES.items():
            named = f"{split or 'train'}*{ending}"
            pattern = named if any(place.glob(named)) else f"*{ending}"
            if any(place.glob(pattern)):
                return {"format": format_, "path": str(place / pattern)}
    raise BadInput(f"dataset: {path} holds no dataset of save_to_disk and no {', '.join(TABLES)} file")


def sae_given(
    sae_path: str,
    sae_id: str | None,
    model: ModelConfig,
    converted: Path,
    context_size: int | None = None,
    prepend_bos: bool | None = None,
) -> SaeGiven:
    """A SAELens directory, a folder of sparsify (`layers.N`), or a SAELens release with its `sae_id`.

    Args:
        sae_path: the folder, or the name of a release.
        sae_id: the hook (`blocks.19.hook_resid_post`), or which SAE of the release.
        model: the model it reads.
        converted: where to write a sparsify SAE as a SAELens directory.
        context_size: tokens of a sample, where its files do not say.
        prepend_bos: whether samples begin with BOS, where its files do not say.

    Raises:
        BadInput: it is none of these, or does not say how its text was cut.
    """
    path = Path(sae_path).expanduser()
    if not path.is_dir():
        if sae_id is None or path.is_absolute() or sae_path.startswith(("./", "../", "~")):
            raise BadInput(f"sae: there is no folder {sae_path}; a release on the hub needs its sae_id too")
        return _settled({"release": sae_path, "sae_id": sae_id}, context_size, prepend_bos)
    from pipeline.sources.sparsify_format import find_sparsify

    path = path.resolve()
    if sae_id is not None and (path / sae_id / "cfg.json").is_file() and not sae_id.startswith("layers."):
        return _settled({"path": str(path / sae_id)}, context_size, prepend_bos)
    layer = find_sparsify(path, sae_id)
    if layer is None:
        section = {"path": str(path)}
        return _settled(_with_hook(section, sae_id), context_size, prepend_bos)
    return _sparsify(layer, model, converted, context_size, prepend_bos)


def _sparsify(
    layer: Any, model: ModelConfig, converted: Path, context_size: int | None, prepend_bos: bool | None
) -> SaeGiven:
    """Sparsify cuts text into contexts of `ctx_len`, with whatever its tokenizer begins a text with."""
    from pipeline.sources.pretrained import model_facts
    from pipeline.sources.sparsify_format import convert_sparsify

    facts, notes = model_facts(model), []
    size = context_size or min(layer.context_size, facts.max_length or layer.context_size)
    bos = facts.adds_bos if prepend_bos is None else prepend_bos
    if context_size is None and not layer.context_stated:
        notes.append(
            f"context_size {size}: the SAE's files do not say; sparsify's default within the model's length"
        )
    if prepend_bos is None:
        notes.append(
            f"prepend_bos {str(bos).lower()}: as the model's tokenizer begins a text, which is what sparsify trains on"
        )
    convert_sparsify(layer, converted, size, bos)
    return SaeGiven(
        section={"path": str(converted), "name": layer.folder.name},
        context_size=None,
        prepend_bos=None,
        notes=tuple(notes),
    )


def _with_hook(section: Section, sae_id: str | None) -> Section:
    from pipeline.sources.saelens_format import read_header

    stated = read_header(SaeConfig(**section)).metadata.hook_name
    if stated is None:
        if sae_id is None:
            raise BadInput(
                "sae: its files do not say where it reads; give sae_id, such as blocks.19.hook_resid_post"
            )
        return {**section, "hook_name": sae_id}
    if sae_id not in (None, stated):
        raise BadInput(
            f"sae: sae_id is {sae_id}, but the SAE's own files say that it reads {stated}; give that, or none"
        )
    return section


def _settled(section: Section, context_size: int | None, prepend_bos: bool | None) -> SaeGiven:
    """Refuse a SAE that does not say how its text was cut: another context or BOS gives other activations."""
    from pipeline.sources.saelens_format import read_header

    metadata = read_header(SaeConfig(**section)).metadata
    for name, given, stated in (
        ("context_size", context_size, metadata.context_size),
        ("prepend_bos", prepend_bos, metadata.prepend_bos),
    ):
        if given is None and stated is None:
            raise BadInput(f"sae: its files do not say {name}, on which activations depend; give {name}")
        if given is not None and stated is not None and given != stated:
            raise BadInput(f"sae: {name} is {given}, but the SAE was trained with {stated}; leave it out")
    return SaeGiven(
        section=section,
        context_size=context_size if metadata.context_size is None else None,
        prepend_bos=prepend_bos if metadata.prepend_bos is None else None,
    )


def _located(name: str, kind: Literal["model", "dataset"], pinned: Mapping[str, str]) -> Section:
    path = Path(name).expanduser()
    if path.exists():
        return {"path": str(path.resolve())}
    if path.is_absolute() or name.startswith(("./", "../", "~")):
        raise BadInput(f"{kind}: there is no {name}")
    from pipeline.sources.pretrained import commit_of

    hub, _, revision = name.partition("@")
    return {"hub": hub, "revision": revision or pinned.get(hub) or commit_of(hub, kind)}
