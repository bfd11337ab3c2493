"""Where a sentence-transformers model is, and what names it: known without loading it, and without torch."""

import os

# read when the library is imported: nothing fetched unless somebody says so
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import importlib.util
from pathlib import Path
from typing import NamedTuple

from saeinterp_mcp.clients.embedding import DEFAULT_MODEL, DEFAULT_PACKAGE
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import file_sha256, fingerprint

NOT_THE_MODEL = (".md", ".gitattributes", "data_config.json")
"""Ends of names of files that tell about a model and do not change what it does."""


class EmbedderFolder(NamedTuple):
    """A model that is on this machine."""

    folder: Path
    name: str


def find_embedder(model: str | None) -> EmbedderFolder:
    """The default model (None), that of a folder, or of a name in this machine's cache.

    Raises:
        BadInput: it is not there.
    """
    if model is None:
        return EmbedderFolder(_default_folder(), DEFAULT_MODEL)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return EmbedderFolder(folder.resolve(), folder.resolve().name)
    # a plain install, which imports other people's files, does without it
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return EmbedderFolder(Path(snapshot_download(model)), model)
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        raise BadInput(
            f"there is no text model {model!r}: it is no folder, and not in this machine's Hugging Face cache; "
            f"`hf download {model}` puts it there"
        ) from error


def _default_folder() -> Path:
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BadInput('the default text model is not installed; pip install "saeinterp-mcp[pipeline]"')
    return Path(spec.submodule_search_locations[0]) / "model"


def model_files(folder: Path) -> dict[str, Path]:
    """The files that decide what a model does, by their names in its folder."""
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(NOT_THE_MODEL)
    }


def model_fingerprint(folder: Path) -> str:
    """Names what is in the files that decide what a model does."""
    return fingerprint({name: file_sha256(path) for name, path in model_files(folder).items()})
