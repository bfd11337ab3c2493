"""The base of all records and configs: frozen, unknown fields refused, errors that name the file."""

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from saeinterp_mcp.errors import BadInput


class Frozen(BaseModel):
    """A record that cannot be changed after it is made and refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def describe_validation(error: ValidationError) -> str:
    """Say each problem of a pydantic error in one line, without links or input dumps."""
    problems = error.errors(include_url=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, p['loc'])) or 'value'}: {p['msg']}" for p in problems)


class FrozenFile(Frozen):
    """A config that is read from a YAML file."""

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read and check a YAML file.

        Raises:
            BadInput: the file is missing, is not YAML, or does not fit; the message names the file and field.
        """
        if not path.is_file():
            raise BadInput(f"{path} does not exist or is not a file")
        try:
            content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise BadInput(f"{path} is not valid YAML: {error}") from error
        if not isinstance(content, dict):
            raise BadInput(f"{path} must hold a mapping at its top level, found {type(content).__name__}")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise BadInput(f"{path}: {describe_validation(error)}") from error
