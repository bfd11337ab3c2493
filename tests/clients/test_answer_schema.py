"""Schemas as strict providers take them."""

from typing import Any, Literal

import jsonschema
import pytest
from anthropic import transform_schema
from pydantic import BaseModel, Field

from saeinterp_mcp.clients.answer_schema import in_words, strict_schema
from tests.providers.behaviour import smallest


class Answer(BaseModel):
    id: str
    title: str | None = None
    probability: int = Field(default=50, ge=0, le=100)


class Answers(BaseModel):
    answers: list[Answer] = Field(min_length=1)
    kind: Literal["a", "b"] = "a"
    default: Answer | None = None


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every object schema inside."""
    if isinstance(schema, list):
        return [found for one in schema for found in objects(one)]
    if not isinstance(schema, dict):
        return []
    inner = [found for one in schema.values() for found in objects(one)]
    return [schema, *inner] if schema.get("type") == "object" else inner


@pytest.mark.parametrize("prepared", [strict_schema, lambda schema: transform_schema(strict_schema(schema))])
def test_every_object_is_closed_and_asks_for_all_it_has(prepared: Any) -> None:
    schema = prepared(Answers.model_json_schema())
    found = objects(schema)
    assert len(found) == 2
    for one in found:
        assert one["additionalProperties"] is False
        assert one["required"] == list(one["properties"])
    jsonschema.Draft202012Validator.check_schema(schema)
    Answers.model_validate(smallest(schema))


def test_a_property_may_be_called_as_a_keyword_that_is_left_out() -> None:
    schema = strict_schema(Answers.model_json_schema())
    assert list(schema["properties"]) == ["answers", "kind", "default"]
    assert list(schema["$defs"]["Answer"]["properties"]) == ["id", "title", "probability"]
    assert "title" not in schema
    assert "default" not in schema["properties"]["kind"]


def test_a_choice_of_types_is_said_as_both_providers_know_it() -> None:
    schema = {
        "type": "object",
        "properties": {
            "rule": {"type": ["string", "null"]},
            "n": {"oneOf": [{"type": "integer"}, {"type": "null"}]},
        },
    }
    strict = strict_schema(schema)
    assert strict["properties"] == {
        "rule": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "n": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    }
    assert transform_schema(strict)["properties"] == strict["properties"]


def test_an_object_of_any_keys_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="names every property"):
        strict_schema({"type": "object", "additionalProperties": {"type": "number"}})


def test_a_schema_is_not_changed_by_being_prepared() -> None:
    schema = Answers.model_json_schema()
    strict_schema(schema)
    assert schema == Answers.model_json_schema()
    assert strict_schema(strict_schema(schema)) == strict_schema(schema)


def test_in_words_holds_the_schema_and_asks_for_nothing_else() -> None:
    words = in_words({"type": "object", "properties": {"é": {"type": "string"}}})
    assert words == (
        "\n\nAnswer with one JSON object and nothing else: no text before or after it, no code fence. It fits this "
        'JSON schema:\n{"type": "object", "properties": {"é": {"type": "string"}}, "required": ["é"], '
        '"additionalProperties": false}'
    )
