"""What an excerpt holds that a search label may name: words, else single tokens; of a set tokens, levels and groups."""

import re
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from saeinterp_mcp.analysis.text import join_bytes, visible_token
from saeinterp_mcp.config import shipped_folder
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.excerpts.records import Excerpt
from saeinterp_mcp.store.base import Store

_WORD = re.compile(r"[^\W\d_]{2,}")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_LETTERS = re.compile(r"[^\W\d_]+")
MAX_TOKEN = 200


class Words(NamedTuple):
    """What an excerpt holds."""

    held: frozenset[str]
    here: frozenset[str]
    """The one of them at the excerpt's own token; empty for a set."""

    def within(self, vocabulary: "Vocabulary | None") -> "Words":
        """Those of the vocabulary, in its forms."""
        return self if vocabulary is None else Words(vocabulary.of(self.held), vocabulary.of(self.here))


def words_of_text(excerpt: Excerpt) -> Words:
    """Words of a sequence in lower case, put together from tokens; in quotes, tokens that are in no word.

    A run of letters at the beginning of an excerpt may be the end of a word, so it is left out unless the sample
    begins there.
    """
    pieces, own = _pieces(excerpt)
    text = "".join(pieces)
    cut = _LETTERS.match(text) if excerpt.start > 0 else None
    found = list(_WORD.finditer(text, cut.end() if cut else 0))
    signs = (_sign(piece) for piece in pieces)
    held = {match.group().lower() for match in found} | {sign for sign in signs if sign is not None}
    begin = sum(map(len, pieces[:own]))
    end = begin + len(pieces[own])
    here = next((m.group().lower() for m in found if m.start() < end and m.end() > begin), _sign(pieces[own]))
    return Words(frozenset(held), frozenset() if here is None else frozenset([here]))


def _pieces(excerpt: Excerpt) -> tuple[list[str], int]:
    """Tokens, runs of bytes joined to characters, and which piece the excerpt's own token is in."""
    if not any(token.startswith("<0x") for token in excerpt.tokens):
        return [token[:MAX_TOKEN] for token in excerpt.tokens], excerpt.at
    pieces: list[str] = []
    own = 0
    for are_bytes, run in groupby(enumerate(excerpt.tokens), key=lambda pair: bool(_BYTE.fullmatch(pair[1]))):
        places, tokens = zip(*run, strict=True)
        if excerpt.at in places:
            own = len(pieces) + (0 if are_bytes else excerpt.at - places[0])
        pieces += [join_bytes("".join(tokens))] if are_bytes else [token[:MAX_TOKEN] for token in tokens]
    return pieces, own


@lru_cache(maxsize=2**16)
def _sign(piece: str) -> str | None:
    """The name of a piece without letters."""
    return None if _LETTERS.search(_BYTE.sub("", piece)) else quoted(piece)


def quoted(token: str) -> str:
    """A token as a label names it; the space around it does not count, unless it is all there is."""
    text = visible_token(token.strip(" ") or token)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class SetWords:
    """Names of what a set holds: its tokens, the levels of families, the values of its primary group."""

    def __init__(self, store: Store) -> None:
        self._names: dict[str, tuple[str, ...]] = {}
        for family in store.families.values():
            for token, level in family.tokens.items():
                exact = f"{family.name}{'>=' if family.encoding == 'cumulative' else '='}{level}"
                self._names[token] = (family.name,) if len(family.levels) == 1 else (exact, family.name)

    def of(self, excerpt: Excerpt) -> frozenset[str]:
        """The names, tokens of no family as they are."""
        names = {name for token in excerpt.tokens for name in self._names.get(token, (visible_token(token),))}
        return frozenset(names | {f"{name}={visible_token(value)}" for name, value in excerpt.groups})


@lru_cache(maxsize=16)
def set_words_of(store: Store) -> SetWords:
    """The names of a store's sets."""
    return SetWords(store)


def words_of(store: Store, excerpt: Excerpt) -> Words:
    """What a label of this store may name of an excerpt."""
    if store.is_sequence:
        return words_of_text(excerpt)
    return Words(set_words_of(store).of(excerpt), frozenset())


class Vocabulary:
    """The only words that a label may have. Their plurals count as they."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self._form = {form: word for word in reversed(words) for form in _forms(word)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def of(self, held: frozenset[str]) -> frozenset[str]:
        """Words of the vocabulary among those held."""
        return frozenset(self._form[word] for word in held if word in self._form)


def _forms(word: str) -> tuple[str, ...]:
    if word.endswith("y"):
        return (word, word + "s", word[:-1] + "ies")
    return (word, word + "s", word + "es")


def read_vocabulary(name: str | Path) -> Vocabulary:
    """The vocabulary in a file, or of a name in `prompts/vocabularies` (`finance`): one word a line, `#` for comments.

    Raises:
        BadInput: no such file, a line that is not one word, no words.
    """
    path = Path(name)
    shipped = shipped_folder("prompts") / "vocabularies"
    if not path.is_file():
        path = shipped / f"{name}.txt"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in shipped.glob("*.txt")))
        raise BadInput(
            f"no vocabulary file {str(name)!r}; give a file with one word a line, or one of: {known}"
        )
    words: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise BadInput(f"vocabulary {path}: expected UTF-8 text ({error})") from error
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].strip().lower()
        if word and not _WORD.fullmatch(word):
            raise BadInput(
                f"vocabulary {path}, line {number}: expected one word of two letters or more, found {word[:80]!r}"
            )
        words += [word] if word else []
    if not words:
        raise BadInput(f"vocabulary {path}: no words; write one a line")
    return Vocabulary(tuple(dict.fromkeys(words)))
