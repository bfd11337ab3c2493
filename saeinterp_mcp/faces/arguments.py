"""A function's signature becomes the model that checks its arguments; all faces use it."""

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import describe_validation
from saeinterp_mcp.operations import OPERATIONS, Operation
from saeinterp_mcp.operations.base import WHERE_HELP, Result
from saeinterp_mcp.store.served import ServedStores

COMMON = (
    *("feature", "scope", "window", "min_n", "limit", "cursor", "split", "seed", "store", "where", "given"),
    *("label_id", "note_id", "evidence", "text", "notes", "author", "author_kind", "source", "reason"),
    *(
        "query",
        "status",
        "worker",
        "kind",
        "history",
        "strategy",
        "action",
        "priority",
        "supports",
        "refutes",
    ),
    *("trial_set", "answers", "n"),
    *("pick", "method", "detail", "family", "family_x", "family_y", "tokens", "restore"),
)
"""Arguments that the server's instructions explain once, or that their name and the tool's own description explain; the
shell's help explains each."""
USUAL = {"scope": "at", "window": 16, "min_n": 20, "split": "explain", "seed": 0}
"""Defaults that the instructions say once."""
MAX_CHARACTERS = 10_000
"""Of a string that is given; the record of answers keeps them all."""
StoreName = Annotated[str | None, Field(description="Which store")]


@dataclass(frozen=True)
class Entry:
    """An operation as every face offers it: under one name, with some arguments perhaps fixed."""

    operation: Operation
    name: str
    command: str
    title: str
    about: str = ""
    """Instead of the function's docstring."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """Arguments that mean nothing under this name; they keep their defaults."""

    @cached_property
    def description(self) -> str:
        """What an agent reads: the docstring without its sections for programmers."""
        text = self.about or inspect.getdoc(self.operation.function) or ""
        text = re.split(r"\n\s*(?:Args|Raises|Returns):\n", text)[0]
        return "\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))

    @property
    def takes_all_stores(self) -> bool:
        """Whether the function is asked about all served stores at once."""
        return self.operation.asks_all_stores

    @cached_property
    def result(self) -> type[Result]:
        """The model of the answer."""
        found = get_type_hints(self.operation.function)["return"]
        assert isinstance(found, type), f"{self.name} must return one model"
        assert issubclass(found, Result), f"{self.name} must return a Result"
        return found

    @cached_property
    def arguments(self) -> type[BaseModel]:
        """The model of the call: required arguments first, `store` last."""
        signature = inspect.signature(self.operation.function, eval_str=True)
        fields: dict[str, Any] = {}
        for name, parameter in list(signature.parameters.items())[1:]:
            if name not in self.fixed and name not in self.left_out:
                missing = parameter.default is inspect.Parameter.empty
                fields[name] = (parameter.annotation, ... if missing else parameter.default)
        fields.setdefault("store", (StoreName, None))
        ordered = dict(sorted(fields.items(), key=lambda item: (item[1][1] is not ..., item[0] == "store")))
        made: type[BaseModel] = create_model(self.name, __config__=ConfigDict(extra="forbid"), **ordered)
        return made

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON schema of the call, as short as it can be, because every host pays for it before the first question.

        No titles; left unsaid are null and false where they are the default, the type where an enum shows it, bounds,
        which `check` names when they are passed, and what is said once of all tools (COMMON, USUAL).
        """
        schema: dict[str, Any] = without_titles(self.arguments.model_json_schema())
        schema["properties"] = {name: _shortened(name, part) for name, part in schema["properties"].items()}
        return schema

    def check(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call, checked and completed with their defaults.

        Raises:
            BadInput: an unknown argument, or a value that does not fit; one line.
        """
        fields = self.arguments.model_fields
        if unknown := [name for name in given if name not in fields]:
            raise BadInput(
                f"{self.name} has no argument {', '.join(_hint(name, list(fields)) for name in unknown)}. "
                f"Arguments: {', '.join(fields)}."
            )
        for name, value in given.items():
            if isinstance(value, bool) and bool not in plain_types(fields[name]):
                raise BadInput(f"{self.name}: {name}: {str(value).lower()} is not a value it takes")
            if not _is_text(value):
                raise BadInput(
                    f"{self.name}: {name}: holds half a character (a lone surrogate), which is not text"
                )
        try:
            checked = self.arguments.model_validate(dict(given))
        except ValidationError as error:
            raise BadInput(f"{self.name}: {describe_validation(error)}") from None
        values = {name: getattr(checked, name) for name in fields}
        for name, value in values.items():
            if (longest := max(map(len, _strings(value)), default=0)) > MAX_CHARACTERS:
                raise BadInput(
                    f"{self.name}: {name}: {longest} characters; at most {MAX_CHARACTERS} are taken"
                )
        return values


def entries(stores: ServedStores | None = None) -> list[Entry]:
    """What the faces offer: OPERATIONS, and shorthands for calls that fit a served store (all, without `stores`)."""
    found = [Entry(o, o.name, o.command, o.title) for o in OPERATIONS]
    groups = {name for store in stores.by_name.values() for name in store.groups} if stores else {"weapon"}
    for entry in list(found):
        if entry.name == "group_sweep" and "weapon" in groups:
            about = "Which weapons the feature fires on: group_sweep by weapon."
            shorthand = Entry(
                entry.operation, "weapon_sweep", "weapon-sweep", "Compare weapons", about, {"by": "weapon"}
            )
            found.insert(found.index(entry) + 1, shorthand)
    return found


def commands() -> list[Entry]:
    """What the shell offers: the tools, where one has several uses under a name for each."""
    found = [entry for entry in entries() if entry.name != "queue_next"]
    by_name = {operation.name: operation for operation in OPERATIONS}

    def use(name: str, command: str, title: str, fixed: dict[str, Any], *left_out: str) -> Entry:
        return Entry(by_name[name], name, command, title, "", fixed, left_out)

    found += [
        use("label_get", "label list", "List labels", {}, "feature", "label_id"),
        use("label_get", "label history", "All revisions of labels", {"history": True}),
        use("label_delete", "label restore", "Bring a retired label back", {"restore": True}),
    ]
    if "queue_next" in by_name:
        one = ("strategy", "seed_feature")
        found += [
            use(
                "queue_next",
                "queue next",
                "Next feature to label",
                {"action": "next"},
                "feature",
                "reason",
                "priority",
            ),
            use("queue_next", "queue add", "Put a feature first", {"action": "add"}, *one),
            use("queue_next", "queue skip", "Leave a feature out", {"action": "skip"}, *one, "priority"),
            use("queue_next", "queue done", "A feature is done", {"action": "done"}, *one, "priority"),
        ]
    return found


def plain_types(info: FieldInfo) -> tuple[Any, ...]:
    """The alternatives of an argument's type, without None."""
    annotation = info.annotation
    choices = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return tuple(choice for choice in choices if choice is not NoneType)


def _is_text(value: Any) -> bool:
    """Whether all strings in an argument can be written as UTF-8; a raw byte on a command line cannot."""
    return not any("\ud800" <= c <= "\udfff" for text in _strings(value) for c in text)


def _strings(value: Any) -> Iterator[str]:
    """Every string in an argument, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from (*_strings(name), *_strings(part))
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"{name!r}" + (f" (did you mean {close[0]!r}?)" if close else "")


def without_titles(schema: Any) -> Any:
    """A JSON schema without the titles that pydantic adds; properties that are named `title` stay."""
    if isinstance(schema, list):
        return [without_titles(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, part in schema.items():
        if key in ("properties", "$defs"):
            found[key] = {name: without_titles(inner) for name, inner in part.items()}
        elif key != "title":
            found[key] = part if key in ("default", "enum", "const") else without_titles(part)
    return found


def said_once(name: str, description: str | None) -> bool:
    """Whether the server's instructions explain the argument; not a `where` that filters something else than rows."""
    return name in COMMON and (name != "where" or description == WHERE_HELP)


def _shortened(name: str, argument: dict[str, Any]) -> dict[str, Any]:
    argument = _without_null(argument)
    left_out = {
        "additionalProperties",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
    }
    if said_once(name, argument.get("description")):
        left_out |= {"description"}
    if "enum" in argument:
        left_out |= {"type"}
    if argument.get("default", ...) is False or argument.get("default", ...) == USUAL.get(name):
        left_out |= {"default"}
    return {key: part for key, part in argument.items() if key not in left_out}


def _without_null(argument: dict[str, Any]) -> dict[str, Any]:
    """`X or null, by default null` said as X; leaving the argument out means null."""
    choices = [choice for choice in argument.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) != 1 or argument.get("default", ...) is not None:
        return argument
    return {**choices[0], **{key: part for key, part in argument.items() if key not in ("anyOf", "default")}}
