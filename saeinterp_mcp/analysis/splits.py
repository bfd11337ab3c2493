"""Which unit a sample belongs to, the order of units, and which of them are `explain`.

A unit's place is a hash of (unit, split_seed). Units are stored in that order and the first ones, those whose hash
lies in the lowest 70 % of the range, are the `explain` split: so it is a prefix of every array, decided once per
unit, and samples added later never move a unit to the other side.
"""

import hashlib
from collections.abc import Iterable, Sequence

EXPLAIN_SHARE = 0.7
EXPLAIN_BELOW = int(EXPLAIN_SHARE * 2**64)


def content_unit(tokens: Iterable[str], kind: str) -> str:
    """The default unit of a sample: a hash of its tokens (sorted, in a set), so exact duplicates are one unit."""
    parts = sorted(set(tokens)) if kind == "set" else list(tokens)
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return "content:" + digest.hexdigest()


def unit_hash(unit: str, split_seed: int) -> int:
    """64 bits that place a unit."""
    text = f"{split_seed}\0{unit}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def in_explain(place: int) -> bool:
    """Whether a unit with this hash belongs to the `explain` split."""
    return place < EXPLAIN_BELOW


def order_units(units: Sequence[str], split_seed: int) -> tuple[list[str], int]:
    """Units without repeats in stored order, and how many of them are `explain`."""
    placed = sorted((unit_hash(unit, split_seed), unit) for unit in set(units))
    return [unit for _, unit in placed], sum(in_explain(place) for place, _ in placed)
