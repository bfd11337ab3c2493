"""Decoder and unembedding that are given beside a source, so that its store can say what features push towards."""

import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.importers.source import SourceSection
from saeinterp_mcp.errors import BadInput


def outputs_of(section: SourceSection, n_features: int, out: Path) -> dict[str, Any]:
    """Copy the weights into the bundle; the fields of bundle.yaml that name them.

    Raises:
        BadInput: one of them is missing that another needs.
    """
    fields: dict[str, Any] = {}
    if (section.unembedding is None) != (section.output_tokens is None):
        raise BadInput("--unembedding and --output-tokens must be given together")
    if section.unembedding is not None and section.decoder is None:
        raise BadInput("--unembedding needs --decoder")
    for name in ("decoder", "unembedding"):
        path = getattr(section, name)
        if path is not None:
            if not path.is_file():
                raise BadInput(f"{path} does not exist or is not a file")
            shutil.copyfile(path, out / f"{name}.npy")
            fields[name] = f"{name}.npy"
    if section.output_tokens is not None:
        fields["output_tokens"] = _names(section.output_tokens)
    return fields


def _names(path: Path) -> list[str]:
    """A list of names, or a vocabulary whose ids are 0 to n - 1."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    if isinstance(content, dict):
        by_id = {index: name for name, index in content.items()}
        if sorted(by_id) != list(range(len(content))):
            raise BadInput(f"{path}: the ids of the outputs must be 0 to {len(content) - 1}")
        content = [by_id[index] for index in range(len(by_id))]
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise BadInput(f"{path} must hold a list of names or a vocabulary {{token: id}}")
    return content
