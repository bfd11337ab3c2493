"""What is known of a pretrained model before it is loaded, and what a name on the hub means at this moment."""

import gc
from pathlib import Path
from typing import Any, Literal

from pipeline.source_config import ModelConfig
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen

RunDtype = Literal["float32", "bfloat16", "float16"]


class ModelFacts(Frozen):
    """Of the model's own files."""

    dtype: RunDtype
    """The number type it was saved in; float32 where it does not say."""
    max_length: int | None
    adds_bos: bool
    """Whether its tokenizer begins a text with BOS when nobody tells it otherwise."""


def model_facts(model: ModelConfig) -> ModelFacts:
    """Read config and tokenizer, no weights.

    Raises:
        BadInput: they are not there.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        config: Any = AutoConfig.from_pretrained(model.source, revision=model.revision)
        tokenizer: Any = AutoTokenizer.from_pretrained(model.source, revision=model.revision)
    except (OSError, ValueError) as error:
        raise BadInput(f"model: {model.source} could not be read: {error}") from error
    text = config.get_text_config()
    dtype = str(getattr(text, "dtype", None)).removeprefix("torch.")
    length = getattr(text, "max_position_embeddings", None)
    bos = tokenizer.bos_token_id
    return ModelFacts(
        dtype="bfloat16" if dtype == "bfloat16" else "float16" if dtype == "float16" else "float32",
        max_length=None if length is None else int(length),
        adds_bos=bos is not None and tokenizer("a")["input_ids"][:1] == [bos],
    )


def commit_of(name: str, kind: Literal["model", "dataset"]) -> str:
    """The commit that a hub name means now; without the hub, the one in this machine's cache.

    Raises:
        BadInput: there is no such name, or no way to ask.
    """
    from huggingface_hub import HfApi, constants

    try:
        commit = HfApi().repo_info(name, repo_type=kind).sha
    except Exception as error:  # errors of its HTTP library too, which is another one in each of its versions
        kept = Path(constants.HF_HUB_CACHE, f"{kind}s--{name.replace('/', '--')}", "refs", "main")
        if kept.is_file():
            return kept.read_text(encoding="utf-8").strip()
        why = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{kind} {name!r} is no folder or file here, and the hub does not tell what the name means ({why}); "
            f"give a local path, or NAME@COMMIT of what is in the cache"
        ) from error
    assert commit is not None, "the hub gives every repository a commit"
    return commit


def model_folder(model: ModelConfig) -> Path:
    """The folder of a model's files; of a hub name the one in the cache.

    Raises:
        BadInput: it cannot be had.
    """
    if model.path is not None:
        return model.path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model.source, revision=model.revision))
    except (OSError, ValueError) as error:
        raise BadInput(f"model: {model.source} could not be read: {error}") from error


def give_memory_back() -> None:
    """Let go of the memory of a GPU that models which are gone held: another process is to load one there."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
