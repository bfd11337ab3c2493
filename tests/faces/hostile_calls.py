"""Calls of every operation, made from its input schema; and an independent eye for what must not be shown."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from saeinterp_mcp.faces.arguments import Entry
from tests.faces.hostile_world import MARK, PAYLOADS

KNOWN: dict[str, tuple[Any, ...]] = {
    "seed_feature": (2,),
    "limit": (50,),
    "min_n": (1,),
    "size": (3,),
    "draws": (19,),
    "window": (3,),
    "kind": ("hypothesis",),
    "status": ("supported",),
}
"""Values that bring most to light, by the name of the argument; others are made from the schema."""
OF_STORE: dict[str, dict[str, tuple[Any, ...]]] = {
    "seq": {
        "feature": (2, 0, 3),
        "family": ("fam", "other"),
        "family_x": ("fam",),
        "family_y": ("other",),
        "by": ("module", "source", "module.class"),
        "group": ("module=m0", "module=zzz", "module"),
        "contains": ("zzz",),
        "tokens": (["w0", "zzz"], ["w0", "w1"]),
        "families": (["fam", "other"],),
        "rule": ("family:fam>=1", "not token:w1 or module=m0", "module=zzz", "module.class=zzz", "token:zzz"),
        "where": ("family:fam>=1", "not module=m0", "source=zzz"),
        "given": ("family:other>=1",),
    },
    "gear": {
        "feature": (3, 2, 0),
        "family": ("swim", "a"),
        "family_x": ("swim",),
        "family_y": ("a",),
        "by": ("weapon", "weapon.class"),
        "group": ("weapon=bow0", "weapon=zzz"),
        "contains": ("zzz",),
        "families": (["swim", "a"],),
        "rule": ("family:swim>=3", "weapon=bow0", "weapon=zzz"),
        "where": ("family:swim>=3",),
        "given": ("family:a>=1",),
    },
}
ON_FEATURES = ("firing_rate>0", "max>0.1", "score_fuzz>0", "explainer=zzz", "scorer=pwn and score_fuzz=null")
"""`where` of features_search is about features."""
EVERY = 5
"""Every so many payloads are tried for each argument, each time others."""
_BLANK = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0}
_BLANK |= {*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0000, 0xE1000)}
"""Drawn as nothing though letters and marks: Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties."""

QUOTES = frozenset(
    (
        # of the corpus
        *("token", "tokens", "text", "value", "member", "set", "items", "dropped", "attribute_value"),
        *("promoted", "suppressed", "module", "source", "weapon", "class"),
        # of labels and notes
        *("label", "explanation", "notes", "author", "category", "rule", "reason", "worker"),
        # of explanations and of the examples they are set against
        *("phrase", "term", "ngram", "explainer", "scorer", "a", "b", "explainers", "scorers"),
        # what the caller asked, then or now
        *("query", "where", "given", "contains", "arguments"),
        # of whoever made the store
        *("model", "sae", "dataset", "checks", "served_from"),
    )
)
"""Fields and columns of answers in which stored text may be quoted, here and nowhere else."""


def hidden(text: str, breaks: bool = False) -> list[str]:
    """Characters of a text that act or that a reader does not see; line breaks may be allowed."""
    found = []
    for character in text:
        category = unicodedata.category(character)
        invisible = category[0] == "C" or category in ("Zl", "Zp") or ord(character) in _BLANK
        if invisible and not (breaks and character == "\n"):
            found.append(f"U+{ord(character):04X}")
    return found


def leaves(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path, string) of every string of a JSON value; a key is a string `key`; a cell is named by its column."""
    if isinstance(value, str):
        yield at, value
    elif isinstance(value, dict):
        columns = value.get("columns") if isinstance(value.get("rows"), list) else None
        for key, part in value.items():
            yield (*at, "key"), key
            if key == "rows" and columns:
                for row in part:
                    for column, cell in zip(columns, row, strict=True):
                        yield from leaves(cell, (*at, column))
            else:
                yield from leaves(part, (*at, key))
    elif isinstance(value, list):
        for part in value:
            yield from leaves(part, at)


def faults(body: Any, asked: Any) -> Iterator[str]:
    """What is wrong with the strings of an answer: something unseen, or quoted text where our own words stand."""
    named = set(MARK.findall(str(asked)))
    for path, text in leaves(body):
        where = ".".join(path)
        breaks = path[-1] == "notes" or (path[-1] == "text" and path[0] in ("entries", "labels", "text"))
        if unseen := hidden(text, breaks):
            yield f"{where}: {unseen} in {text[:200]!r}"
        if QUOTES & set(path):
            continue
        if foreign := set(MARK.findall(text)) - named:
            yield f"{where}: {foreign} quoted in {text[:200]!r}"


def calls(
    entry: Entry, store: str, ids: dict[str, Any], texts: Sequence[str] = PAYLOADS, every: int = EVERY
) -> Iterator[dict[str, Any]]:
    """The call with what it needs, then for every argument and each value worth a try that call with it.

    Args:
        entry: the operation.
        store: `seq` or `gear`.
        ids: of what is on record: `label_id`, `note_id`, `evidence`.
        texts: given where any text will do.
        every: how many of these are left out for one that is tried.
    """
    schema = entry.input_schema
    values = {
        name: list(_values(entry, name, part, store, ids, texts[i % every :: every]))
        for i, (name, part) in enumerate(schema["properties"].items())
    }
    needed = {name: values[name][0] for name in schema.get("required", [])}
    if entry.name == "note_save":
        needed |= {"kind": "observation", "text": "x"}
    if entry.name == "label_save":
        needed |= {"text": "x"}
    if entry.name == "label_score":  # nobody is configured to judge
        needed |= {"text": "x", "judge": "self"}
    yield {**needed, "store": store}
    for name, choices in values.items():
        if name != "store":
            yield from ({**needed, name: choice, "store": store} for choice in choices)


def _values(
    entry: Entry, name: str, part: dict[str, Any], store: str, ids: dict[str, Any], texts: Sequence[str]
) -> Iterator[Any]:
    if name == "store":
        return
    if entry.name in ("features_search", "compare_explainers") and name == "where":
        yield from ON_FEATURES
        return
    if "enum" in part:
        yield from (one for one in part["enum"] if one != "explanation")  # which starts the text model
        return
    several = part.get("type") == "array"
    if name in ids:
        yield [ids[name]] if several else ids[name]
    known = OF_STORE[store].get(name, ()) + KNOWN.get(name, ())
    yield from known
    kind = part.get("type")
    if kind == "boolean":
        yield from (True, False)
    elif kind == "string":
        yield from texts
    elif several:
        yield from ([a, b] for a, b in zip(texts[::2], texts[1::2], strict=False))
    elif not known:
        yield 1
