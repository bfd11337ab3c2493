"""What a store holds, its format version, what made it, and the hashes that prove it whole."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.fingerprint import canonical_json, file_sha256, fingerprint
from saeinterp_mcp.frozen import Frozen, describe_validation

FORMAT: Literal["saeinterp-store"] = "saeinterp-store"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"

REBUILD = "Give the folder that `saeinterp-pipeline build` or `import` published, or make it again."

NAME = r"^[A-Za-z0-9_.-]{1,200}$"
"""Of families, groups and attributes, as the importers make them: they stand in keys, columns and sentences of answers,
where text of a stranger's store must not."""
Name = Annotated[str, Field(pattern=NAME)]


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[\w.-]{1,200}", name):
        raise ValueError("a store's name is at most 200 letters, digits, '_', '-' and '.'")
    return name


Kind = Literal["set", "sequence"]
Split = Literal["explain", "all"]
SPLITS: tuple[Split, Split] = ("explain", "all")


class FamilyInfo(Frozen):
    """A family: the tokens (or position values) that are levels of one thing."""

    name: Name
    encoding: Literal["exclusive", "cumulative"]
    levels: tuple[int, ...]
    """Level values, ascending. Code 0 of a row means no level, code k the k-th of these."""
    tokens: dict[str, int] = {}
    """Token string to level value; empty for a family of positions."""
    of_positions: bool = False


class GroupInfo(Frozen):
    """A group: a category that every sample belongs to."""

    name: Name
    values: tuple[str, ...]
    """Values, sorted; the code of a sample is an index into them."""
    primary: bool = False
    attributes: dict[Name, tuple[str, ...]] = {}
    """Attribute name to one string for each of `values`."""


class FileEntry(Frozen):
    """One file of the store."""

    bytes: int
    sha256: str


class Segment(Frozen):
    """Samples whose activations were written together. A store has one, and one more for each append."""

    path: str = "."
    """Folder of the activations in the store."""
    first_sample: int = 0
    """Its first sample, by row in the input."""
    n_samples: int


class StraightSource(Frozen):
    """Somebody's files that a store answers from without having copied their activations."""

    format: Literal["batch-zarr", "transposed-zarr", "neuron-acts"]
    folder: str
    """Where they are; an absolute path."""
    n_rows: int
    """Rows of the source; `source/store_row` says which row of the store each is."""
    trust_arrays: bool = False
    negatives: Literal["drop", "abs"] | None = None
    listing: str
    """Hash of the names and sizes of its files, which must not change."""


class Manifest(Frozen):
    """Everything about a store but its arrays. Written last, by rename."""

    format: Literal["saeinterp-store"] = FORMAT
    format_version: int = FORMAT_VERSION
    name: Annotated[str, AfterValidator(_plain_name)]
    kind: Kind
    n_features: int
    n_samples: int
    n_rows: int
    """Counted positions (samples, in a set store): the denominators."""
    n_positions_stored: int
    """All positions with a token, the excluded ones too."""
    n_activations: int
    """Activations the store holds; 0 where they stay in the files of `straight`."""
    n_units: int
    n_explain: dict[Literal["samples", "rows", "units"], int]
    """How many of each are in the `explain` split. They come first in every array."""
    split_seed: int
    coverage: Literal["full", "sampled"] = "full"
    excluded_positions: tuple[int, ...] = ()
    families: tuple[FamilyInfo, ...] = ()
    groups: tuple[GroupInfo, ...] = ()
    model: dict[str, Any] | None = None
    sae: dict[str, Any] | None = None
    dataset: dict[str, Any] | None = None
    checks: list[dict[str, Any]] = []
    dropped: dict[str, int] = {}
    """Activations or samples left out by the import, by reason."""
    search_floor: dict[str, float] = {}
    """Features under these (`firing_rate`, `max`) are flagged and left out of default searches."""
    seeds: dict[str, int] = {}
    provenance: dict[str, Any] = {}
    """Fingerprints of configs and inputs, code version, library versions."""
    straight: StraightSource | None = None
    """Where the activations are when the store does not hold them."""
    generation: int = 0
    segments: tuple[Segment, ...] = ()
    lineage: str = ""
    """Fingerprint of the first generation, whose labels this one keeps; empty in the first itself."""
    files: dict[str, FileEntry] = {}

    def fingerprint(self) -> str:
        """The name of this store's content, as cited in evidence; not of how it was made."""
        without = {"provenance", "lineage"} | (set() if self.straight is not None else {"straight"})
        return fingerprint(self.model_dump(mode="json", exclude=without))


def read_manifest(store: Path) -> Manifest:
    """Read and check the manifest of a store and that its files are there in full length.

    Raises:
        BadStore: not a store, damaged, truncated, foreign or newer.
    """
    path = store / MANIFEST
    rebuild = REBUILD
    if not store.is_dir():
        raise BadStore(
            store, "a folder holding a store", "nothing" if not store.exists() else "a file", rebuild
        )
    if not path.is_file():
        names = sorted(p.name for p in store.iterdir())[:5]
        raise BadStore(store, f"a store with {MANIFEST}", f"{', '.join(names) or 'an empty folder'}", rebuild)
    manifest = parse_manifest(path.read_bytes(), path)
    for name, entry in manifest.files.items():
        file = store / name
        size = file.stat().st_size if file.is_file() else None
        if size != entry.bytes:
            found = "no such file" if size is None else f"{size} bytes"
            raise BadStore(file, f"{entry.bytes} bytes", found, rebuild)
    return manifest


def parse_manifest(content_bytes: bytes, where: object) -> Manifest:
    """The manifest in some bytes.

    Raises:
        BadStore: not a manifest, cut, foreign or newer.
    """
    try:
        content = json.loads(content_bytes)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadStore(where, "JSON", f"text that is not ({error})", REBUILD) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise BadStore(where, f"format {FORMAT!r}", f"{found!r}", REBUILD)
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        advice = "Update saeinterp-mcp." if newer else "Build or import the store again with this version."
        raise BadStore(where, f"format version {FORMAT_VERSION}", f"version {version}", advice)
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise BadStore(where, "the fields of a manifest", describe_validation(error), REBUILD) from error


def list_files(store: Path) -> dict[str, FileEntry]:
    """Size and SHA-256 of every file of a store but the manifest and the build log."""
    paths = {p.relative_to(store).as_posix(): p for p in sorted(store.rglob("*")) if p.is_file()}
    names = [name for name in paths if name not in (MANIFEST, "build_log.json")]
    # hashing lets go of the interpreter, so threads help
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = pool.map(file_sha256, (paths[name] for name in names))
    return {
        name: FileEntry(bytes=paths[name].stat().st_size, sha256=sha256)
        for name, sha256 in zip(names, hashes, strict=True)
    }


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Write the manifest under a temporary name, flush it to disk and rename it."""
    partial = store / (MANIFEST + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(canonical_json(manifest.model_dump(mode="json")) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(store / MANIFEST)


def verify_files(store: Path, manifest: Manifest) -> None:
    """Recompute every hash.

    Raises:
        BadStore: a file differs from the manifest, or is not named in it.
    """
    found = list_files(store)
    for name, entry in manifest.files.items():
        if found.get(name) != entry:
            other = found[name].sha256[:16] if name in found else "no such file"
            raise BadStore(store / name, f"sha256 {entry.sha256[:16]}...", other, "Make the store again.")
    if extra := sorted(set(found) - set(manifest.files)):
        raise BadStore(store / extra[0], "only files named in the manifest", "this file", "Remove it.")
