"""Where a tokenizer is on this machine: a folder, or a name in the Hugging Face cache. Nothing is fetched."""

from pathlib import Path

from saeinterp_mcp.errors import BadInput

FILES = (
    "added_tokens.json", "config.json", "merges.txt", "special_tokens_map.json", "spiece.model", "tokenizer.json",
    "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt",
)  # fmt: skip
"""What decides how a tokenizer spells its ids."""


def find_tokenizer(name: str) -> Path:
    """The folder of a tokenizer.

    Raises:
        BadInput: it is not on this machine.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        found: Path | None = folder.resolve()
    else:
        found = _in_cache(name)
    if found is None or not tokenizer_files(found):
        raise BadInput(
            f"there is no tokenizer {name!r}: it is no folder of one, and not in this machine's Hugging Face cache; "
            "give a folder with tokenizer.json (--tokenizer)"
        )
    return found


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """The files of a tokenizer, by name; none where the folder holds no vocabulary."""
    there = {name: folder / name for name in FILES if (folder / name).is_file()}
    vocabulary = {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"}
    return there if vocabulary & there.keys() else {}


def _in_cache(name: str) -> Path | None:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        return None
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
