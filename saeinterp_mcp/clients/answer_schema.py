"""The JSON schema of an answer, as strict providers want it and in words for those that know none."""

import json
from typing import Any

WORDS = """

Answer with one JSON object and nothing else: no text before or after it, no code fence. It fits this JSON schema:
{schema}"""
_DROPPED = ("default", "title")


def strict_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, with every object closed and all of its properties required; keywords of pydantic's own go."""
    if "$ref" in schema:  # what stands beside a reference is refused
        kept = {"$ref": schema["$ref"]}
        return kept | ({"$defs": _each(schema["$defs"])} if "$defs" in schema else {})
    found = {name: value for name, value in schema.items() if name not in _DROPPED}
    for name in ("properties", "$defs"):
        if name in found:
            found[name] = _each(found[name])
    if "items" in found:
        found["items"] = strict_schema(found["items"])
    for name in ("anyOf", "oneOf"):
        if name in found:
            found["anyOf"] = [strict_schema(one) for one in found.pop(name)]
    if isinstance(found.get("type"), list) and "enum" not in found:
        found["anyOf"] = [{"type": kind} for kind in found.pop("type")]
    if found.get("type") == "object":
        assert "properties" in found, (
            "an answer schema names every property: strict providers know no free keys"
        )
        found |= {"required": list(found["properties"]), "additionalProperties": False}
    return found


def in_words(schema: dict[str, Any]) -> str:
    """What to put at the end of the instructions of a model that cannot be held to a schema."""
    return WORDS.format(schema=json.dumps(strict_schema(schema), ensure_ascii=False))


def _each(schemas: dict[str, Any]) -> dict[str, Any]:
    return {name: strict_schema(one) for name, one in schemas.items()}
