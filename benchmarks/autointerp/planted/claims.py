"""Claims in words that can be taken literally: written by the scripted reader and the oracle, read by the judge."""

import re
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

Form = Literal["any", "all", "without", "either", "none", "never"]
"""any of the items; all of them; the first without the second; one of two but not both; none of them; never."""
_LEVEL = re.compile(r"(f\d+)_(\d+)")
_AT_LEAST = re.compile(r"(f\d+)(?:(>=|=)(\d+))?")
"""Of a claim: `f05` for any level, `f05>=20`, `f05=20`."""
_SAID = re.compile(r"Fires where there is (.*)\.$")
_PART = re.compile(r'"([^"]*)"')
_WORDS: dict[Form, tuple[str, str]] = {
    "any": ("", " or "),
    "all": ("", " together with "),
    "without": ("", " without "),
    "either": ("either ", " or else "),
    "none": ("none of ", " or "),
    "never": ("nothing at all", ""),
}
MOST_NAMED = 4
"""Items in a label of under 10 words."""


class Formula(NamedTuple):
    """Where a feature fires."""

    form: Form
    items: tuple[str, ...] = ()
    """Words; in sets tokens, `f05>=20` for a family's level, `g.a1=a1v3` for a group's value."""

    def holds(self, sample: "Sample") -> bool:
        """Whether it fires there, by the claim."""
        has = [item in sample for item in self.items]
        if self.form == "any":
            return any(has)
        if self.form == "all":
            return all(has)
        if self.form == "without":
            return has[0] and not has[1]
        if self.form == "either":
            return has[0] != has[1]
        return self.form == "none" and not any(has)

    @property
    def said(self) -> str:
        """In a sentence that `read_claim` understands."""
        before, between = _WORDS[self.form]
        return "Fires where there is " + before + between.join(f'"{item}"' for item in self.items) + "."

    @property
    def label(self) -> str:
        """Under 10 words; where it is shortened, the sentence has the rest."""
        before, between = _WORDS[self.form]
        return (before + between.join(self.items[:MOST_NAMED])).strip()


class Sample:
    """What a reader sees of a set, or of one token of a text: names, and levels of families by their names."""

    def __init__(self, names: Collection[str]) -> None:
        """Take the names."""
        self.names = frozenset(names)
        self.levels: dict[str, int] = {}
        for name in self.names:
            if found := _LEVEL.fullmatch(name):
                self.levels[found[1]] = max(self.levels.get(found[1], 0), int(found[2]))

    def __contains__(self, item: str) -> bool:
        """Whether an item of a claim is there."""
        if item in self.names:
            return True
        found = _AT_LEAST.fullmatch(item)
        return found is not None and _is_level(found, self.levels.get(found[1], 0))

    def items(self) -> set[str]:
        """Everything that a claim could name of it."""
        plain = {name for name in self.names if not _LEVEL.fullmatch(name)}
        return plain | {f"{found[1]}>={found[2]}" for name in self.names if (found := _LEVEL.fullmatch(name))}


def read_claim(claim: str) -> Formula:
    """What a claim says, taken at its word: ours by their sentence, the search label's as any of its words."""
    if found := _SAID.search(claim):
        said = found[1]
        before: tuple[Form, ...] = ("never", "either", "none")
        between: tuple[Form, ...] = ("all", "without")
        for form in before:
            if said.startswith(_WORDS[form][0]):
                return Formula(form, tuple(_PART.findall(said)))
        for form in between:
            if f'"{_WORDS[form][1]}"' in said:
                return Formula(form, tuple(_PART.findall(said)))
        return Formula("any", tuple(_PART.findall(said)))
    words = claim.partition(": ")[0]
    return Formula("never") if words == "unclear" else Formula("any", tuple(words.split(", ")))


def rule_of(formula: Formula, in_text: bool) -> str:
    """The same in the language of rules."""
    terms = [_term(item, in_text) for item in formula.items]
    if formula.form == "all":
        return " and ".join(terms)
    if formula.form == "without":
        return f"{terms[0]} and not {terms[1]}"
    if formula.form == "either":
        a, b = terms
        return f"({a} and not {b}) or ({b} and not {a})"
    anyone = " or ".join(terms)
    return f"not ({anyone})" if formula.form == "none" else anyone


def tokens_named(formula: Formula, families: Mapping[str, Mapping[str, int]]) -> frozenset[str]:
    """Its items as tokens and values of groups; of an exclusive family at a level, the tokens from there on.

    Args:
        formula: the claim.
        families: name of each exclusive family to its tokens with their levels.
    """
    found: set[str] = set()
    for item in formula.items:
        level = _AT_LEAST.fullmatch(item)
        if level and level[1] in families:
            found |= {token for token, at in families[level[1]].items() if _is_level(level, at)}
        else:
            found.add(f"{level[1]}_{level[3]}" if level and level[3] else item)
    return frozenset(found)


def _is_level(found: re.Match[str], level: int) -> bool:
    if found[2] is None:
        return level > 0
    return level >= int(found[3]) if found[2] == ">=" else level == int(found[3])


def _term(item: str, in_text: bool) -> str:
    if _AT_LEAST.fullmatch(item):
        return f"family:{item}"
    if "=" in item:
        return item
    return f'token:"{" " if in_text else ""}{item}"'
