"""How a config, an input file and a piece of code are named: by the SHA-256 of their content."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.source_config import Located
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import canonical_json, file_sha256

JsonObject = dict[str, Any]


def fingerprint_of(value: object) -> str:
    """SHA-256 of the canonical JSON, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def package_version() -> str:
    """The installed version of saeinterp-mcp; `source` where it runs from a checkout that is not
    installed."""
    try:
        return importlib.metadata.version("saeinterp-mcp")
    except importlib.metadata.PackageNotFoundError:
        return "source"


def code_hashes(modules: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each module's source file, without importing it."""
    hashes = {}
    for module in sorted(modules):
        spec = importlib.util.find_spec(module)
        assert spec is not None, f"a stage names the module {module}, which does not exist"
        assert spec.origin is not None, f"a stage names {module}, which has no source file"
        hashes[module] = file_sha256(Path(spec.origin))
    return hashes


def files_below(path: Path) -> list[Path]:
    """The file itself, or every file below a folder in the order of their names; hidden files are left
    out."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadInput(f"{path} does not exist")
    found: list[Path] = []
    for folder, subfolders, names in os.walk(path):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found.extend(Path(folder, name) for name in sorted(names) if not name.startswith("."))
    if not found:
        raise BadInput(f"{path} is an empty folder")
    return found


def named_files(name: str, path: Path) -> dict[str, Path]:
    """`name/relative path` to file, for the file itself or all files of a folder."""
    return {
        name if file == path else f"{name}/{file.relative_to(path).as_posix()}": file
        for file in files_below(path)
    }


def located_files(**sections: Located) -> dict[str, Path]:
    """The named files of each section that has a path: `model/config.json`, `sae/cfg.json`."""
    files: dict[str, Path] = {}
    for name, section in sections.items():
        if section.path is not None:
            files |= named_files(name, section.path)
    return files


class FileHashes:
    """Hashes of input files, remembered between runs by path, size and time of change.

    A model of many gigabytes is read once, not at every start. The memory is a JSON file; losing it costs
    time only.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = {}
        if memory is not None and memory.is_file():
            try:
                self._known = json.loads(memory.read_text(encoding="utf-8"))
            except ValueError:
                self._known = {}

    def of_file(self, path: Path) -> str:
        """SHA-256 of one file."""
        stat = path.stat()
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        remembered = self._known.get(str(path))
        if remembered is not None and remembered[:-1] == state:
            return str(remembered[-1])
        digest = file_sha256(path)
        self._known[str(path)] = [*state, digest]
        return digest

    def of_inputs(self, inputs: Mapping[str, Path]) -> dict[str, str]:
        """SHA-256 of each named file; more than twenty files of one folder (`dataset/...`) share one hash."""
        hashes = {name: self.of_file(path) for name, path in sorted(inputs.items())}
        self._remember()
        folders: dict[str, dict[str, str]] = {}
        for name, digest in hashes.items():
            folders.setdefault(name.split("/")[0], {})[name] = digest
        combined: dict[str, str] = {}
        for folder, members in folders.items():
            combined |= (
                members
                if len(members) <= 20
                else {f"{folder} ({len(members)} files)": fingerprint_of(members)}
            )
        return combined

    def _remember(self) -> None:
        if self._memory is not None:
            write_whole(self._memory, json.dumps(self._known, sort_keys=True))


def write_whole(path: Path, text: str) -> None:
    """Write a text file under a temporary name, then rename it: it is never seen half written."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
