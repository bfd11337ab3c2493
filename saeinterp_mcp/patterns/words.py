"""Words of a text by their stems, and the words that say nothing about what a feature means."""

import re
from functools import lru_cache

_RUN = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+")
_PARTS = re.compile(r"[A-Z]{2,}(?=s?(?![a-z]))|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_VOWEL = re.compile(r"[aeiouy]")

_COMMON = """a about above across after again against all almost along also although always am among an and another any
    anything are aren around as at back be became because become becomes been before being below between both but by
    came can cannot could did do does doesn doing done don down during each either else enough especially etc even ever
    every everything few followed following follows for from further generally get gets give given gives go goes had has
    have having he her here hers herself him himself his how however i if in indicate indicates indicating instead into
    involve involves involving is isn it its itself just keep kind kinds largely least less like likely made mainly make
    makes making many may me might mine more most mostly much must my myself near nearly neither never no nor not
    nothing now of off often on once one ones only onto or other others otherwise our ours ourselves out over own part
    parts particularly per perhaps possibly primarily quite rather really related relating relate relates same say says
    see seem seems several shall she should show shown shows similar since so some something sometimes sort specific
    specifically still such take taken tend tends than that the their theirs them themselves then there these they thing
    things this those though through throughout thus to together too toward towards typical typically under unless until
    up upon us use used uses using usually various very via was wasn way ways we well were what whatever when whenever
    where whether which while who whom whose why will with within without won would you your yours yourself eg ie vs
    ve ll re"""
COMMON = frozenset(_COMMON.split())
"""Words of English that name nothing; a feature that fires on one is told by quoting it."""
_ABOUT_FEATURES = """
    activate activates activated activating activation activations active appear appears appearing
    appearance associated associate capture captures capturing category characterize characterized common
    commonly concept concepts consistently contain contains containing context contexts contextual corpus
    correspond corresponds describe describes describing description detect detects detecting discuss
    discussing discussion example examples excerpt excerpts explanation explanations feature features find
    finds fire fires fired firing focus focuses focused focusing form forms found highlight highlighted
    highlighting highlights identify identifies identifying include includes included including input inputs
    instance instances latent latents mark marks marked marking mean meaning meanings mention mentions
    mentioned mentioning neuron neurons occur occurs occurring occurrence occurrences particular pattern
    patterns phrase phrases piece pieces presence present preceded precedes preceding refer refers referring
    represent represents representing respond responds response segment segments sense sensitive sequence
    sequences signal signals snippet snippets span spans specified strong strongest strongly tagged term
    terms text texts textual token tokenized tokens trigger triggers triggered type types usage variety
    various word words wording
"""
ABOUT_FEATURES = frozenset(_ABOUT_FEATURES.split())
"""Words that explanations of any feature are made of."""


@lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """A word of lower case without its ending: plural s and es, then ed, ing and ly, then a last e.

    Letters doubled before ed and ing become one (running, run). Rough on purpose: both sides are stemmed alike, and it
    is enough that forms of one word meet: names, named, naming -> nam.
    """
    word = _without_plural(word)
    for ending, shortest in (("ing", 6), ("ed", 5), ("ly", 5)):
        if word.endswith(ending) and len(word) >= shortest:
            rest = word[: -len(ending)]
            if _VOWEL.search(rest):
                word = _single(rest) if ending != "ly" else rest
                break
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def _without_plural(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _single(rest: str) -> str:
    """planned -> plann -> plan; call, pass and buzz keep theirs."""
    if len(rest) > 3 and rest[-1] == rest[-2] and rest[-1] not in "aeiouylsz":
        return rest[:-1]
    return rest


_SIGNS = {
    "comma": ",",
    "semicolon": ";",
    "colon": ":",
    "underscore": "_",
    "newline": "\n",
    "linebreak": "\n",
    "slash": "/",
    "backslash": "\\",
    "asterisk": "*",
    "hyphen": "-",
    "ampersand": "&",
    "apostrophe": "'",
    "parenthesis": "()",
    "parentheses": "()",
    "bracket": "()[]",
    "brace": "{}",
    "backtick": "`",
}
SIGNS = {stem(name): tuple(signs) for name, signs in _SIGNS.items()}
"""Stems of words that name a sign, and what they name: only words that mean little else."""

STOP_STEMS = frozenset(stem(word) for word in COMMON | ABOUT_FEATURES)


def words(text: str) -> list[tuple[str, str]]:
    """(stem, as it is written) of every word of two or more letters or digits, in order; identifiers are split at `_`,
    digits and camelCase: `HTTPServer2_name` holds HTTP, Server and name."""
    return [word for match in _RUN.finditer(text) for word in _words_of_run(match.group())]


@lru_cache(maxsize=65_536)
def _words_of_run(run: str) -> tuple[tuple[str, str], ...]:
    parts = _PARTS.findall(run) if run.isascii() and not run[0].isdigit() else [run]
    return tuple((stem(part.lower()), part) for part in parts if len(part) > 1)


def stems(text: str) -> set[str]:
    """Stems of the words of a text, stop words too."""
    return {key for key, _ in words(text)}
