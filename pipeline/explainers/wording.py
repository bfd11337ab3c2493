"""The wording of explainers: files in `prompts/explain`, with named slots."""

import re
from functools import cache
from typing import NamedTuple

from saeinterp_mcp.config import shipped_text
from saeinterp_mcp.excerpts.show import FENCE_CLOSE, FENCE_OPEN
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import FamilyInfo

_SLOT = re.compile(r"\{(\w+)\}")
_BETWEEN = "\n---\n"
MAX_FAMILIES, MAX_LEVELS, MAX_GROUPS = 60, 8, 8
"""Named in a request; of a store with more the first ones, said so."""


class Wording(NamedTuple):
    """The two parts of a request."""

    system: str
    """Instructions, the same for every feature of a store: providers can keep it in a cache."""
    user: str


@cache
def template(name: str) -> str:
    """A text of `prompts/explain`."""
    return shipped_text("prompts", f"explain/{name}.md").rstrip("\n")


def filled(text: str, **slots: str) -> str:
    """A text with its slots filled, in one pass: what stands in a slot is never read as one."""
    return _SLOT.sub(lambda match: slots[match[1]], text)


def wording(name: str, store: Store, **slots: str) -> Wording:
    """The request of an explainer about a feature of a store.

    Args:
        name: of the explainer, and of its file.
        store: says which kind of samples there are and what rules can name.
        slots: what to put into the explainer's own text.
    """
    kind = store.manifest.kind
    words = dict(line.split(": ", 1) for line in template(kind).splitlines())
    own, material = template(name).split(_BETWEEN)
    instructions = filled(
        template("instructions"),
        rules=_rules(store),
        fence_open=FENCE_OPEN,
        fence_close=FENCE_CLOSE,
        **words,
    )
    shown = filled(own, marks=template(f"marks_{kind}"), **words)
    return Wording(f"{instructions}\n\n{shown}", filled(material, **slots))


def _rules(store: Store) -> str:
    """The language of rules with the names of this store; no text of the corpus is among them."""
    families = list(store.families.values())
    # names of families, groups and attributes are plain words; tokens and values of groups are corpus text
    return filled(
        template(f"rules_{store.manifest.kind}"),
        families=_families(families),
        groups=_groups(store),
        example=_example(store, families),
    )


def _families(families: list[FamilyInfo]) -> str:
    if not families:
        return "There are no families of tokens here."
    shown = [f"{f.name} ({_levels(f.levels)})" for f in families[:MAX_FAMILIES]]
    more = f" and {len(families) - MAX_FAMILIES} more" if len(families) > MAX_FAMILIES else ""
    return (
        "family:NAME holds where any level of a family is present, family:NAME>=LEVEL where its highest level is at "
        f"least that. Families here: {', '.join(shown)}{more}."
    )


def _levels(levels: tuple[int, ...]) -> str:
    if len(levels) == 1:
        return f"level {levels[0]}"
    if len(levels) <= MAX_LEVELS:
        return f"levels {', '.join(map(str, levels))}"
    return f"{len(levels)} levels from {levels[0]} to {levels[-1]}"


def _groups(store: Store) -> str:
    if not store.groups:
        return "There are no groups here."
    names = [
        name for g in store.manifest.groups for name in (g.name, *(f"{g.name}.{a}" for a in g.attributes))
    ]
    more = f" and {len(names) - MAX_GROUPS} more" if len(names) > MAX_GROUPS else ""
    return (
        "GROUP=VALUE holds where the sample belongs there; values with anything but letters, digits, _ and - in "
        f"double quotes. Groups and their attributes here: {', '.join(names[:MAX_GROUPS])}{more}."
    )


def _example(store: Store, families: list[FamilyInfo]) -> str:
    first = f"family:{families[0].name}>={families[0].levels[-1]}" if families else 'token:"a"'
    second = f"family:{families[1].name}" if len(families) > 1 else 'token:"b"'
    if store.is_sequence or not store.groups:
        return f"{first} and not {second}"
    return f"{first} and not {second} and {store.manifest.groups[0].name}=VALUE"
