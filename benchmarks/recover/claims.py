"""The files of a task: what an investigator is given, and what it hands in, checked."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from benchmarks.recover.truth import Claim, InGroup, Structure, Term
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.frozen import Frozen


class FamilyNames(Frozen):
    """A family, as a claim names it."""

    levels: tuple[int, ...]
    encoding: str


class WorldTask(Frozen):
    """One store and what is asked of it."""

    store: str
    """Folder beside the task file; also its name in claims."""
    fingerprint: str
    kind: str
    features: tuple[int, ...]
    """To be claimed, each once."""
    families: dict[str, FamilyNames]
    groups: dict[str, tuple[str, ...]]
    """Group, or group.attribute, to its values."""


class Task(Frozen):
    """What an investigator is given."""

    task: str
    """Fingerprint of the stores and features; claims repeat it."""
    instructions: str
    budget_calls: int = Field(ge=1)
    """Operations asked per feature."""
    worlds: tuple[WorldTask, ...]
    claims_schema: dict[str, Any]
    """JSON schema of the file to hand in."""


class ClaimsFile(Frozen):
    """What an investigator hands in."""

    task: str
    """Of the task file."""
    investigator: str = Field(min_length=1)
    """Who it was: a model's name, a person, a script."""
    worlds: dict[str, tuple[Claim, ...]]
    """Store to the claims of its features; a feature left out counts as nothing claimed."""


def check_claims(claims: ClaimsFile, task: str, worlds: Mapping[str, WorldTask]) -> None:
    """Whether the claims answer the task.

    Raises:
        BadInput: another task's, an unknown store, feature or name, a feature twice; the message says which claim.
    """
    if claims.task != task:
        raise BadInput(
            f"the claims are of task {claims.task!r}, this is task {task!r}; copy `task` from task.json"
        )
    for store, mine in claims.worlds.items():
        if store not in worlds:
            raise BadInput(
                f"claims of store {store!r}, which the task does not have; {nearest(store, worlds)}"
            )
        seen: set[int] = set()
        for claim in mine:
            where = f"store {store!r}, feature {claim.feature}"
            if claim.feature not in worlds[store].features:
                raise BadInput(f"{where}: not asked for; task.json lists the features")
            if claim.feature in seen:
                raise BadInput(f"{where}: claimed twice; a feature has one claim")
            seen.add(claim.feature)
            if claim.structure is not None:
                _check_names(claim.structure, worlds[store], where)


def _check_names(structure: Structure, world: WorldTask, where: str) -> None:
    for term in (*structure.terms, *([structure.tail] if structure.tail else [])):
        _check_term(term, world, where)
    for group in (structure.group, structure.gate):
        if group is not None:
            _check_group(group, world, where)


def _check_term(term: Term, world: WorldTask, where: str) -> None:
    if term.family not in world.families:
        raise BadInput(f"{where}: no family {term.family!r}; {nearest(term.family, world.families)}")
    levels = world.families[term.family].levels
    if term.threshold not in levels:
        known = ", ".join(map(str, levels))
        raise BadInput(f"{where}: {term.family} has no level {term.threshold}; a threshold is one of {known}")


def _check_group(group: InGroup, world: WorldTask, where: str) -> None:
    if group.by not in world.groups:
        advice = nearest(group.by, world.groups)
        raise BadInput(f"{where}: no group {group.by!r} (an attribute is GROUP.ATTRIBUTE); {advice}")
    values = world.groups[group.by]
    if group.value not in values:
        raise BadInput(f"{where}: {group.by} has no value {group.value!r}; {nearest(group.value, values)}")
