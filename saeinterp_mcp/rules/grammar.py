"""The two grammars, and what is said about a text that does not follow them."""

import re
from collections.abc import Set
from dataclasses import dataclass
from functools import cache
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.rules.quoting import escaped, is_hidden, placed

MAX_CHARACTERS = 2_000
MAX_DEPTH = 30
"""Parentheses and nots inside one another."""

_LOGIC = r"""
?start: disjunction
?disjunction: conjunction (_OR conjunction)*
?conjunction: operand (_AND operand)*
?operand: _NOT operand -> negation
        | _LPAR disjunction _RPAR -> parentheses
        | condition

_AND.2: /and(?![\w.+-])/i
_OR.2: /or(?![\w.+-])/i
_NOT.2: /not(?![\w.+-])/i
_LPAR: "("
_RPAR: ")"
EQUALITY: /!=|=/
ORDER: />=|<=|>|</
NUMBER: /[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?(?![\w.+-])/i
%ignore /[ \t\r\n]+/
"""

# The lexer is contextual: after `token:` the word `not` is a value, and `3` a value, a level or a number.
# LALR merges states, so terminals that match the same text must not follow one symbol of the grammar; this is
# why each condition spells its comparisons out.
_RULE = r"""
?condition: family | token | group | region | activation
family: _FAMILY name ((EQUALITY | ORDER) LEVEL)?
token: _TOKEN value
group: owner attribute? _choice
owner: _GROUP name | NAME
attribute: _DOT name
region: _REGION _choice
activation: _ACTIVATION (EQUALITY | ORDER) NUMBER
_choice: EQUALITY value | IN _LPAR value (_COMMA value)* _RPAR
?name: NAME | STRING
?value: VALUE | STRING

_FAMILY.2: /family\s*:/
_TOKEN.2: /token\s*:/
_GROUP.2: /group\s*:/
_REGION.2: /region(?![\w-])/
_ACTIVATION.2: /activation(?![\w-])/
_DOT: "."
_COMMA: ","
IN.2: /in(?![\w.+-])/i
LEVEL: /[0-9]+(?![\w.+-])/
NAME: /(?!(and|or|not|in)(?![\w-]))[\w-]+/i
VALUE: /[\w.+-]+/
STRING: /"([^"\\\t\r\n]|\\[^\t\r\n])*"/
"""

_METRIC = r"""
?condition: metric | missing | selection
metric: METRIC (EQUALITY | ORDER) NUMBER
missing: METRIC EQUALITY _NULL
selection: SELECTOR (EQUALITY value | IN _LPAR value (_COMMA value)* _RPAR)
?value: VALUE | STRING

_NULL.2: /null(?![\w.+-])/i
SELECTOR.2: /(explainer|scorer|method|sae)(?![\w.-])/i
METRIC: /(?!(and|or|not)(?![\w.-]))[^\W\d][\w.-]*/i
IN.2: /in(?![\w.+-])/i
_COMMA: ","
VALUE: /[\w.+\/:@#-]+/
STRING: /"([^"\\\t\r\n]|\\[^\t\r\n])*"/
"""

_CHARACTERS = "double quotes around anything but letters, digits"
_EXPECTED = (
    ("_FAMILY", "a condition (family:NAME, token:NAME, GROUP=VALUE, region=NAME or activation>NUMBER)"),
    ("METRIC", "the name of a metric"),
    ("_NOT", "`not`"),
    ("_LPAR", "`(`"),
    ("NAME", f"a name ({_CHARACTERS}, _ and -)"),
    ("_DOT", "a dot and an attribute"),
    ("ORDER", "`>=`"),
    ("ORDER", "`>`"),
    ("ORDER", "`<=`"),
    ("ORDER", "`<`"),
    ("EQUALITY", "`=`"),
    ("EQUALITY", "`!=`"),
    ("IN", "`in (...)`"),
    ("LEVEL", "a level (a whole number)"),
    ("NUMBER", "a number such as 1.5 or 1e-4"),
    ("VALUE", f"a value ({_CHARACTERS}, _ . + and -)"),
    ("_COMMA", "a comma"),
    ("_AND", "`and`"),
    ("_OR", "`or`"),
    ("_RPAR", "`)`"),
    ("$END", "the end"),
)
"""What a reader calls the terminals, in the order of telling; those left out go without saying."""

_HINTS = (
    (re.compile(r"(?<==)=|={2}"), "", "equality is a single ="),
    (re.compile(r"(?<==)>"), "", "at least is >="),
    (re.compile(r"(?<==)<"), "", "at most is <="),
    (re.compile(r"'"), "", "quotes are double"),
    (re.compile(r'"'), "_FAMILY", 'a quoted name stands behind its kind: token:"a b" or group:"a b"=VALUE'),
    (re.compile(r'"'), "VALUE NAME", "the quote is not closed; inside, a line break is \\n and a tab \\t"),
    (re.compile(r"[&|!~]"), "", "the words are and, or, not"),
    (
        re.compile(r"(none|nan|n/?a|missing)\b", re.IGNORECASE),
        "_NULL",
        "what is not known is null: score_fuzz=null",
    ),
    (re.compile(r"\(none\)"), "VALUE", 'the missing value is written "(none)", with its quotes'),
    (re.compile(r"not\b", re.IGNORECASE), "IN", "the negation stands first: not weapon in (a, b)"),
    (re.compile(r""), "_DOT", "this was read as a group; a token is token:NAME, a family family:NAME"),
    (re.compile(r"[\d.+-]"), "METRIC", "the name stands left, what it is compared with right"),
    (re.compile(r"[^)]"), "_AND _COMMA", ""),
)
"""What usually went wrong: a pattern at the spot, terminals of which one is expected (none: any), advice."""


@dataclass(frozen=True)
class Language:
    """One of the two grammars, with the words for talking about it."""

    noun: str
    example: str
    conditions: str
    quoting_hint: str
    """What to try where a condition was complete and more text follows."""


RULES = Language(
    noun="rule",
    example="family:swim_speed_up>=12 and weapon.class=roller and not token:comeback",
    conditions=_RULE,
    quoting_hint='a name or value with spaces or signs is put in double quotes, as in weapon="a b"',
)
METRIC_FILTERS = Language(
    noun="filter",
    example="firing_rate>0.01 and not (max<2.5)",
    conditions=_METRIC,
    quoting_hint="each condition is one metric, one comparison and one number",
)


@cache
def _parser(language: Language) -> Lark:
    grammar = _LOGIC + language.conditions
    return Lark(grammar, parser="lalr", propagate_positions=True, maybe_placeholders=False)


def syntax_tree(text: str, language: Language) -> Tree[Token]:
    """The parse tree of a text, however deep.

    Raises:
        BadInput: too long, empty, invisible characters, or not in the grammar.
    """
    noun, example = language.noun, f"an example: {language.example}"
    if len(text) > MAX_CHARACTERS:
        raise BadInput(f"the {noun} has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    for i, character in enumerate(text):
        if is_hidden(character) and character not in "\t\r\n":
            problem = f"the {noun} holds a character that cannot be seen, U+{ord(character):04X}"
            advice = f"inside double quotes it is written {escaped(character)}; elsewhere take it out"
            raise placed(BadInput, problem, text, (i, i + 1), advice)
    if not text.strip():
        raise BadInput(f"the {noun} is empty; {example}")
    try:
        return _parser(language).parse(text)
    except (UnexpectedToken, UnexpectedCharacters) as error:
        start = _start(error, text)
        accepted: set[str] = error.interactive_parser.accepts()  # type: ignore[no-untyped-call]
        if accepted & {"_RPAR", "$END"} and "_COMMA" not in accepted:
            accepted |= {"_AND", "_OR"}  # lark had already closed the condition when it saw the error
    found = re.compile(r"[\w-]+|.|$", re.DOTALL).match(text, start)
    assert found is not None, "the last alternative matches everywhere"
    what = f"`{escaped(found[0][:40])}`" if found[0] else "the end"
    problem = f"the {noun} cannot be read at column {start + 1}: found {what}, expected {_in_words(accepted)}"
    hint = _hint(text, start, accepted, language)
    raise placed(BadInput, problem, text, (start, start + len(found[0])), *([hint] if hint else []), example)


def _start(error: UnexpectedInput, text: str) -> int:
    """Where reading stopped; lark puts the end of the text at its last token."""
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        return len(text.rstrip())
    position: Any = error.pos_in_stream
    assert isinstance(position, int), "lark knows where it stopped"
    return position


def _in_words(accepted: Set[str]) -> str:
    hidden = {"NAME"} if "_FAMILY" in accepted else set()
    words = [said for terminal, said in _EXPECTED if terminal in accepted - hidden]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _hint(text: str, start: int, accepted: Set[str], language: Language) -> str:
    for pattern, wanted, said in _HINTS:
        if pattern.match(text, start) and (not wanted or accepted & set(wanted.split())):
            return said or language.quoting_hint
    return ""
