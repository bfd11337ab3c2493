"""RecoverBench worlds to be read: texts made of words, and what of a planted rule a reader can see at all."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from benchmarks.autointerp.planted.claims import Formula
from benchmarks.recover.nulls import shuffle_bundle
from benchmarks.recover.sequences import BOS
from benchmarks.recover.truth import Structure, Term, Truth
from benchmarks.recover.worlds import WorldKind, write_world
from pipeline.importers.run_import import import_bundle
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.store.base import Store


class Quiet:
    """A reporter that says nothing."""

    def say(self, line: str) -> None:
        """Nothing."""

    @contextmanager
    def working(self, stage: str) -> Iterator[Any]:
        """No bar."""
        yield lambda done, total: None


CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def build(
    folder: Path, kind: WorldKind, seed: int, shuffled: bool, **options: Any
) -> tuple[Path, list[Truth]]:
    """A world as a store, and its truths; shuffled, there is nothing to find in it."""
    folder.mkdir(parents=True)
    bundle = folder / "bundle"
    truths = write_world(bundle, kind, seed, **options)
    if kind == "sequence":
        in_words(bundle, seed)
    if shuffled:
        shuffle_bundle(bundle, seed)
        truths = [
            Truth(feature=t.feature, stratum="noise", structure=None) for t in truths if t.stratum != "dead"
        ]
    import_bundle(bundle, folder / "store", progress=Quiet())
    return folder / "store", truths


def in_words(bundle: Path, seed: int) -> None:
    """Give each token of a sequence world a word of its own behind a space, in place: `f12_1` is not read as a word."""
    samples = pl.read_parquet(bundle / "samples.parquet")
    tokens = sorted(set(samples["tokens"].explode()) - {BOS})
    syllables = [c + v for c in CONSONANTS for v in VOWELS]
    drawn = rng(seed, "words of tokens").choice(len(syllables) ** 2, len(tokens), replace=False).tolist()
    words = {
        token: f" {syllables[place // len(syllables)]}{syllables[place % len(syllables)]}"
        for token, place in zip(tokens, drawn, strict=True)
    }
    named = [[words.get(token, token) for token in held] for held in samples["tokens"]]
    samples.with_columns(pl.Series("tokens", named)).write_parquet(bundle / "samples.parquet")
    config = yaml.safe_load((bundle / "bundle.yaml").read_text(encoding="utf-8"))
    for family in config["families"]:
        family["levels"] = {words.get(token, token): level for token, level in family["levels"].items()}
    (bundle / "bundle.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def exclusive_families(store: Store) -> Mapping[str, Mapping[str, int]]:
    """Families of which a sample has one level, with the level of each token as a reader writes it."""
    return {
        name: {token.strip(): level for token, level in info.tokens.items()}
        for name, info in store.families.items()
        if info.encoding == "exclusive"
    }


def planted(store: Store, truth: Truth) -> Formula | None:
    """The planted rule in the words of claims; None where there is none, or what is read does not show it.

    Of texts a reader sees words alone: no depth (families of positions) and no group.
    """
    structure = truth.structure
    if structure is None:
        return None
    if store.is_sequence:
        return _in_text(store, structure)
    items = [_item(store, term) for term in structure.terms]
    if structure.group is not None:
        items = [f"{structure.group.by}={structure.group.value}"]
    if structure.gate is not None:
        return Formula("all", (*items, f"{structure.gate.by}={structure.gate.value}"))
    if structure.polarity == "decreases":
        return Formula("none", tuple(items))
    form = {"one": "any", "or": "any", "and": "all", "xor": "either"}[structure.combine]
    return Formula(form, tuple(items))  # type: ignore[arg-type]


def _in_text(store: Store, structure: Structure) -> Formula | None:
    """Words of token families; two of them never stand at one place, so either is any."""
    seen = all(store.families[term.family].tokens for term in structure.terms)
    if not seen or structure.group or structure.gate or structure.combine == "and":
        return None
    words = [
        word.strip()
        for term in structure.terms
        for word, level in store.families[term.family].tokens.items()
        if level >= term.threshold
    ]
    return Formula("none" if structure.polarity == "decreases" else "any", tuple(words))


def _item(store: Store, term: Term) -> str:
    info = store.families[term.family]
    if len(info.levels) == 1:
        return next(iter(info.tokens))
    return f"{term.family}>={term.threshold}"
