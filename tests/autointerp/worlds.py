"""The planted documents, with the name of each document in its text: whoever quotes one is found out."""

import re
from dataclasses import replace

from saeinterp_mcp.analysis.splits import in_explain, unit_hash
from saeinterp_mcp.store.memory_store import World, WorldSample
from tests.scorers.planted import documents

NAME = re.compile(r"doc(\d+)n")
PLANTED = ("<bos>", " def", " class", " if")
"""Tokens that features fire on stay where they are."""


def named_documents() -> World:
    """`documents`, with every third token the name of its document; features 0 to 7 are those of `documents`."""
    world = documents()
    samples = [
        WorldSample(
            tuple(
                f" doc{i}n" if place % 3 == 1 and token not in PLANTED else token
                for place, token in enumerate(sample.tokens)
            ),
            unit=sample.unit,
        )
        for i, sample in enumerate(world.samples)
    ]
    return replace(world, samples=tuple(samples))


def split_of(document: int) -> str:
    """Of a document, by the definition."""
    return "explain" if in_explain(unit_hash(f"doc{document}", 0)) else "heldout"


def splits_in(text: str) -> set[str]:
    """Splits of the documents that a text quotes."""
    return {split_of(int(number)) for number in NAME.findall(text)}
