"""What a stage leaves: a folder that is either complete or not there.

It is written as `<work>/<stage>.partial/`, with `partial.json` naming the fingerprint it is for. At the end
`artifact.json` is written into it by rename, and the folder gets its final name. A folder with the final name
is therefore complete, and holds nothing that depends on when, where or how often it was made.
"""

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError

from pipeline.fingerprint import files_below, fingerprint_of, write_whole
from pipeline.stage import Summary
from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.fingerprint import canonical_json, file_sha256
from saeinterp_mcp.frozen import Frozen

REBUILD = "Delete the folder and build again."


class Identity(Frozen):
    """Everything that decides an artifact's content; its hash is the fingerprint."""

    stage: str
    config: dict[str, Any]
    """The sections that the stage sees, without paths."""
    inputs: dict[str, str]
    """Input stage to its fingerprint."""
    files: dict[str, str]
    """File from outside the run to its SHA-256."""
    code: dict[str, str]
    """Module to the SHA-256 of its source, and `version` of the package."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON, 64 hex digits."""
        return fingerprint_of(self.model_dump(mode="json"))


class FileRecord(Frozen):
    """One file of an artifact."""

    bytes: int
    sha256: str


class Artifact(Frozen):
    """The content of `artifact.json`."""

    fingerprint: str
    identity: Identity
    summary: Summary
    files: dict[str, FileRecord] = Field(default_factory=dict)
    """Relative path to size and hash, of everything but `artifact.json`."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a finished artifact and check that its files are there in full size.

        Raises:
            BadStore: `artifact.json` is missing or foreign, or a file is missing or of another size.
        """
        path = folder / "artifact.json"
        if not path.is_file():
            raise BadStore(folder, "a finished artifact with artifact.json", "none", REBUILD)
        try:
            artifact = cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise BadStore(
                path, "the record of an artifact", f"something else ({type(error).__name__})", REBUILD
            ) from error
        for name, record in artifact.files.items():
            file = folder / name
            size = file.stat().st_size if file.is_file() else None
            if size != record.bytes:
                found = "no such file" if size is None else f"{size} bytes"
                raise BadStore(file, f"{record.bytes} bytes", found, REBUILD)
        return artifact


class ArtifactWriter:
    """The unfinished artifact of one stage."""

    def __init__(self, work: Path, identity: Identity) -> None:
        self.identity = identity
        self.final = work / identity.stage
        self.folder = work / f"{identity.stage}.partial"
        self._marker = self.folder / "partial.json"

    def open(self) -> str | None:
        """Make the folder ready to write into.

        Returns why what was there was thrown away; None if there was nothing, or if it is of this fingerprint
        and therefore kept, to be continued.
        """
        reason = None
        if self.folder.exists():
            found = self._found_identity()
            if found is not None and found.fingerprint == self.identity.fingerprint:
                for leftover in sorted(self.folder.rglob("*.tmp")):
                    leftover.unlink()
                return None
            reason = (
                "; ".join(differences(found, self.identity)) if found else "it does not say what it is for"
            )
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        write_whole(self._marker, self.identity.model_dump_json(indent=1))
        return reason

    def finish(self, summary: Summary) -> Artifact:
        """Write `artifact.json`, then give the folder its final name, in place of an older one."""
        paths = [
            path
            for path in files_below(self.folder)
            if path not in (self._marker, self.folder / "artifact.json")
        ]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            hashes = pool.map(file_sha256, paths)
        files = {
            path.relative_to(self.folder).as_posix(): FileRecord(bytes=path.stat().st_size, sha256=sha256)
            for path, sha256 in zip(paths, hashes, strict=True)
        }
        artifact = Artifact(
            fingerprint=self.identity.fingerprint, identity=self.identity, summary=summary, files=files
        )
        write_whole(self.folder / "artifact.json", canonical_json(artifact.model_dump(mode="json")) + "\n")
        self._marker.unlink(missing_ok=True)
        if self.final.exists():
            shutil.rmtree(self.final)
        self.folder.rename(self.final)
        return artifact

    def _found_identity(self) -> Identity | None:
        try:
            if self._marker.is_file():
                return Identity.model_validate_json(self._marker.read_text(encoding="utf-8"))
            return Artifact.read(self.folder).identity  # killed between writing artifact.json and the rename
        except (ValidationError, BadStore, UnicodeDecodeError):
            return None


def differences(old: Identity, new: Identity) -> list[str]:
    """What changed between two artifacts of one stage, a sentence each."""
    sentences = [f"config changed: {change}" for change in changed_values(old.config, new.config)]
    kinds = (("input", old.inputs, new.inputs), ("file", old.files, new.files), ("code", old.code, new.code))
    for kind, before, after in kinds:
        names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            sentences.append(f"{kind} changed: {', '.join(names[:3])}{more}")
    return sentences


def changed_values(old: object, new: object, name: str = "") -> list[str]:
    """`tokenize.max_tokens 1000 -> 2000` for each value that differs, at any depth of mappings."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        changes = []
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{name}.{key}" if name else str(key)
            changes.extend(changed_values(old.get(key), new.get(key), inner))
        return changes
    if old == new:
        return []
    return [f"{name} {shown(old)} -> {shown(new)}"]


def shown(value: object) -> str:
    """A config value, cut to what fits a line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
