"""Writing a label file."""

import re
from pathlib import Path

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.labels.exchange.files import write_whole
from saeinterp_mcp.labels.exchange.formats import LabelFormat
from saeinterp_mcp.labels.exchange.records import Options, Target


class ExportReport(Frozen):
    """What was written."""

    file: str
    format: str
    store: str
    n_bytes: int
    said: tuple[str, ...]
    """How much of what, in words."""


def export_file(target: Target, chosen: LabelFormat, out: Path, options: Options) -> ExportReport:
    """Write a store's labels into a file, or into a folder under the format's own name.

    Raises:
        BadInput: the format is only read, something it needs was not said, or the file cannot be written.
    """
    path = _file_in(target, chosen, out, options)
    if not path.parent.is_dir():
        raise BadInput(f"{path} cannot be written: there is no folder {path.parent}")
    n_bytes = write_whole(path, pieces(target, chosen, options))
    return ExportReport(
        file=str(path), format=chosen.name, store=target.name, n_bytes=n_bytes, said=tuple(options.said)
    )


def pieces(target: Target, chosen: LabelFormat, options: Options) -> list[bytes]:
    """The bytes of the file.

    Raises:
        BadInput: the format is only read, or something it needs was not said.
    """
    if chosen.write is None:
        raise BadInput(f"files of format {chosen.name} are only read; export as consolidated or csv")
    return list(chosen.write(target, options))


def _file_in(target: Target, chosen: LabelFormat, out: Path, options: Options) -> Path:
    if not out.is_dir():
        return out
    if chosen.file_name is None:
        raise BadInput(f"--out {out} is a folder; a file of format {chosen.name} needs a name")
    names = {"store": target.name, "model": options.model_id or target.name}
    safe = {name: re.sub(r"[^\w.-]", "_", value).lstrip(".") or "labels" for name, value in names.items()}
    return out / chosen.file_name.format(**safe)
