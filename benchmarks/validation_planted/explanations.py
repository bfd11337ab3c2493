"""Explanations of demo features written by hand, and the other kinds made from them.

`seen`: while the matching was made, its rules were tried on these. `unseen`: looked at once, when the rules stood.
`labels`: the supported labels of `labels/pycode.jsonl`, word for word, which an agent wrote and which passed a held-out
test before there was any matching; feature 2002, which is among the others, is left out.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from saeinterp_mcp.patterns.phrases import split_phrases

Set = Literal["seen", "unseen", "labels"]
Kind = Literal["true", "half", "other", "generic", "gibberish", "shuffled"]
KINDS: tuple[Kind, ...] = ("true", "half", "other", "generic", "gibberish")
"""In the order of the tables; each is an explainer of the run."""
SHUFFLED: Kind = "shuffled"
"""True explanations of others, given to features that are not in the list."""

SEEN = {
    952: 'the line break and indentation after a condition, "if" statements that compare with "None", comparisons '
    'with "is"',
    1383: 'names of functions in a definition, the word after "def", methods of a class',
    2002: 'what follows the keyword "return", return statements, values that a function gives back',
    661: 'attributes of "self", private attributes that begin with an underscore, accessing an instance variable',
    852: 'comments in code, the "#" sign that begins a comment line',
    455: 'the line break after "):" in a definition, the start of the body of a function or class',
    790: 'the opening parenthesis "(" of function calls, calling a method with arguments',
    1728: 'underscores in identifiers, the "_" between the parts of a name in snake case',
    999: 'the word "be" after modal verbs, passive constructions, "be used"',
    1983: 'the indefinite article "a", a noun phrase introduced with "a"',
}
UNSEEN = {
    2016: 'comment signs "#" at the start of a line, comments',
    122: "commas after closing quotes, punctuation at the end of string literals",
    1022: 'opening quotes of string literals, the sign `"` before a message',
    1194: 'comparison operators such as "==" and "<=", equality tests',
    1478: 'forms of the verb "have", "has been", auxiliary verbs',
    921: "commas, commas that separate items of a list",
    1629: 'quotation marks after an opening parenthesis, the start of a string argument `("`',
    993: "newlines after the end of a statement, blank lines between functions",
    1786: 'the value "None", keyword arguments with "=None" as their default',
}
LABELS = {
    220: "The word in, strongest where it belongs to a for",
    339: "The first token of the right-hand side of an assignment: after an equals sign with a space before it",
    371: "The first token after an opening square or curly bracket",
    542: "The first token after if or elif, in code and in prose",
    567: "What follows a leading underscore of a name, as after self._ or a spaced _",
    1048: "A bare line break, without indentation; two in three are silent",
    1596: "The first token after an opening bracket: a round one, of a call above all, less reliably a square or "
    "curly one",
    1772: "The first token of the value of a keyword argument: after an equals sign without spaces",
}
SETS: dict[Set, Mapping[int, str]] = {"seen": SEEN, "unseen": UNSEEN, "labels": LABELS}
STEPS: dict[Set, int] = {"seen": 7, "unseen": 2, "labels": 3}
"""`other` of a feature is the true one of the feature so many places on in its set. Fixed before anything was counted,
so that as few as possible are also true; DOUBTFUL are left."""
DOUBTFUL = {
    790: "attributes of self often stand before the bracket of a call",
    993: "a comment sign often stands after a new line",
    1786: "None is often followed by a comma, if not after a quote",
}
"""Features whose `other` is partly true, and why."""
GENERIC = "source code, programming in Python, text of a program"
"""True of every feature, and says nothing of any."""
GIBBERISH = (
    "zxqv blorf, the frumious quendal, snorvel plimth of garbonto",
    "wibbling trask umdrel, vorpal nelk, oquith in the brennow",
    "klee mofa dunder, thrint osselby, a grumlet that yarps",
)
"""Words that mean nothing."""


class Told(NamedTuple):
    """One explanation of one feature."""

    feature: int
    kind: Kind
    text: str
    set: str
    """The part of the list that the feature is in; of a planted world the kind of feature."""
    true: str
    """The true explanation that belongs to it (of `shuffled`: that was dealt out): intervals draw these."""


def half_of(true: str, other: str) -> str:
    """The first half of a true explanation, then as many phrases of another feature's, at least one."""
    mine, theirs = (split_phrases(text) for text in (true, other))
    n_true = (len(mine) + 1) // 2
    kept = [phrase.text for phrase in mine[:n_true]] + [
        phrase.text for phrase in theirs[: max(1, len(mine) // 2)]
    ]
    return ", ".join(kept)


def demo_explanations() -> list[Told]:
    """Every kind of every feature of the list."""
    told: list[Told] = []
    for name, texts in SETS.items():
        features = list(texts)
        for i, feature in enumerate(features):
            other = texts[features[(i + STEPS[name]) % len(features)]]
            kinds: dict[Kind, str] = {
                "true": texts[feature],
                "half": half_of(texts[feature], other),
                "other": other,
                "generic": GENERIC,
                "gibberish": GIBBERISH[i % len(GIBBERISH)],
            }
            told += [Told(feature, kind, text, name, texts[feature]) for kind, text in kinds.items()]
    return told
