"""The rule language: what it means, what it refuses and in which words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeinterp_mcp.errors import BadInput, SaeInterpError, UnknownName
from saeinterp_mcp.rules import (
    REGIONS,
    ActivationCondition,
    And,
    FamilyCondition,
    GroupCondition,
    Mask,
    MetricCondition,
    Needs,
    Node,
    Not,
    Or,
    RegionCondition,
    Rule,
    Selection,
    TokenCondition,
    all_of,
    any_of,
    check_rule,
    evaluate,
    evaluate_metric_filter,
    parse_metric_filter,
    parse_rule,
)

# row                 0          1        2         3         4          5
SWIM = np.array([     0,         3,       12,       12,       0,         6], np.uint8)  # fmt: skip
WEAPON = np.array([   "big",     "mini",  "big",    "(none)", "brush",   "splat o"])  # fmt: skip
ACTIVATION = np.array([0,        0.1,     1.5,      3,        0,         2], np.float32)  # fmt: skip
REGION = np.array([   0,         1,       4,        6,        0,         4], np.uint8)  # fmt: skip
TOKENS = [            {"a b"},   set(),   {"\n"},   {"not"},  {'"\\'},   {"a b", "not"}]  # fmt: skip
CLASS = {"big": "roller", "mini": "roller", "brush": "brush", "splat o": "shooter", "(none)": "(none)"}


class Gear:
    """Six rows, by the columns above."""

    n_rows = 6

    def family_level(self, name: str) -> npt.NDArray[np.uint8]:
        return {"swim": SWIM}[name]

    def has_token(self, token: str) -> Mask:
        return np.array([token in tokens for tokens in TOKENS])

    def group_is(self, group: str, attribute: str | None, values: tuple[str, ...]) -> Mask:
        assert group == "weapon"
        found = WEAPON.tolist() if attribute is None else [{"class": CLASS}[attribute][w] for w in WEAPON]
        return np.isin(found, values)

    def activation(self) -> npt.NDArray[np.float32]:
        return ACTIVATION

    def region(self) -> npt.NDArray[np.uint8]:
        return REGION


@dataclass
class Names:
    """A schema; every token of the rows is in the vocabulary."""

    families: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: {"swim": (3, 6, 12), "depth": tuple(range(1, 31))}
    )
    groups: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"weapon": (*CLASS,), "season": ("1", "2")}
    )
    attributes: dict[str, dict[str, tuple[str, ...]]] = field(
        default_factory=lambda: {"weapon": {"class": ("brush", "roller", "shooter")}}
    )

    def has_token(self, token: str) -> bool:
        return any(token in tokens for tokens in TOKENS)

    def nearest_tokens(self, token: str) -> Sequence[str]:
        return ["\n", "not"] if token == "n" else []


def rows_of(text: str) -> list[int]:
    return np.flatnonzero(evaluate(check_rule(parse_rule(text), Names()), Gear())).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("family:swim", [1, 2, 3, 5]),
        ("family:swim>0", [1, 2, 3, 5]),
        ("family:swim=0", [0, 4]),
        ("family:swim>=6", [2, 3, 5]),
        ("family:swim>6", [2, 3]),
        ("family:swim<=6", [0, 1, 4, 5]),
        ("family:swim<6", [0, 1, 4]),
        ("family:swim=12", [2, 3]),
        ("family:swim!=12", [0, 1, 4, 5]),
        ("family:swim>=5", [2, 3, 5]),
        ("family:swim<99999999999999999999", [0, 1, 2, 3, 4, 5]),
        ('family : "swim" >= 6', [2, 3, 5]),
        ("token:not", [3, 5]),
        ('token:"a b"', [0, 5]),
        (r'token:"\n"', [2]),
        (r'token:"\u000A"', [2]),
        (r'token:"a\x20b"', [0, 5]),
        (r'token:"\"\\"', [4]),
        ("weapon=big", [0, 2]),
        ("weapon!=big", [1, 3, 4, 5]),
        ('weapon="splat o"', [5]),
        ('weapon="(none)"', [3]),
        ("group:weapon=big", [0, 2]),
        ('group:"weapon"=big', [0, 2]),
        ('weapon in (mini, "splat o")', [1, 5]),
        ("weapon.class=roller", [0, 1, 2]),
        ('weapon."class"!=roller', [3, 4, 5]),
        ("weapon.class in (brush, shooter)", [4, 5]),
        ("region=core", [2, 5]),
        ("region!=core", [0, 1, 3, 4]),
        ("region=silent", [0, 4]),
        ("region in (core, tail)", [2, 3, 5]),
        ("activation>=1.5", [2, 3, 5]),
        ("activation=0", [0, 4]),
        ("activation=0.1", [1]),
        ("activation<=1e-1", [0, 1, 4]),
        ("activation!=.15E1", [0, 1, 3, 4, 5]),
        ("activation>1e300", []),
        ("activation>-1", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_each_condition_holds_on_the_rows_it_describes(text: str, rows: list[int]) -> None:
    assert rows_of(text) == rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("token:not or weapon=big and family:swim", [2, 3, 5]),
        ("(token:not or weapon=big) and family:swim=0", [0]),
        ("not weapon=big and family:swim", [1, 3, 5]),
        ("not (weapon=big and family:swim)", [0, 1, 3, 4, 5]),
        ("not weapon=big or weapon=big", [0, 1, 2, 3, 4, 5]),
        ("not not weapon=big", [0, 2]),
        ("NOT(weapon=big)AND\n\tNot token:not Or region IN (tail)", [1, 3, 4]),
    ],
)
def test_not_binds_more_tightly_than_and_which_binds_more_tightly_than_or(text: str, rows: list[int]) -> None:
    assert rows_of(text) == rows


def test_a_rule_is_read_into_nodes_that_know_where_they_stood() -> None:
    text = 'family:swim>=12 and (weapon.class=roller or weapon in (a, "b c")) and not token:x'
    rule = parse_rule(text)
    swim = FamilyCondition("swim", ">=", 12)
    roller = GroupCondition("weapon", "class", "=", ("roller",))
    among = GroupCondition("weapon", None, "in", ("a", "b c"))
    assert rule == Rule(And((swim, Or((roller, among)), Not(TokenCondition("x")))), text)
    assert isinstance(rule.root, And)
    spans = [part.span for part in rule.root.parts]
    assert [text[slice(*span)] for span in spans] == [
        "family:swim>=12",
        'weapon.class=roller or weapon in (a, "b c")',
        "not token:x",
    ]
    either = rule.root.parts[1]
    assert isinstance(either, Or)
    places = [[text[slice(*place)] for place in part.places] for part in either.parts]
    assert places == [["weapon", "class", "roller"], ["weapon", "a", '"b c"']]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("family : swim>0", "family:swim"),
        ("FAMILY=a AND (b=c AND (d=e))", "FAMILY=a and b=c and d=e"),
        ("((a=b)) or (c=d or e=f) and not(not g=h)", "a=b or (c=d or e=f) and not not g=h"),
        ('group:weapon="roller"', "weapon=roller"),
        ("group:region=core", "group:region=core"),
        ('group:"or"=x', 'group:"or"=x'),
        ('group:"a b"."c.d"=e', 'group:"a b"."c.d"=e'),
        (r'token:"and" and token:"\x41\u00e9\ud83d\ude42"', 'token:"and" and token:"Aé🙂"'),
        (r'token:"\x09\u200b\udb40\udc41"', r'token:"\t\u200b\udb40\udc41"'),
        ("activation > 1.50 or activation<-0.0", "activation>1.5 or activation<0"),
        ("family:swim<=007", "family:swim<=7"),
    ],
)
def test_the_normal_form_drops_what_does_not_matter(text: str, canonical: str) -> None:
    assert parse_rule(text).canonical() == canonical
    assert parse_rule(canonical).canonical() == canonical


def test_a_rule_says_what_it_needs() -> None:
    needs = parse_rule("(family:a or weapon=x) and token:t and weapon.class=y and family:a>3").needs()
    assert needs == Needs(
        ("a",), ("t",), (("weapon", None), ("weapon", "class")), region=False, activation=False
    )
    assert (needs.uses_feature, needs.uses_tokens) == (False, True)
    for text in ("not region=core", "weapon=x or activation>1"):
        assert parse_rule(text).needs().uses_feature
        assert not parse_rule(text).needs().uses_tokens


def test_a_mask_does_not_share_memory_with_the_rows() -> None:
    class Cached(Gear):
        kept = np.ones(6, np.bool_)

        def has_token(self, token: str) -> Mask:
            return self.kept

        def group_is(self, group: str, attribute: str | None, values: tuple[str, ...]) -> Mask:
            return self.kept

    for text in ("token:a", "weapon=a", "token:a and not weapon=a", "not token:a or weapon!=a"):
        mask = evaluate(parse_rule(text), Cached())
        mask[:] = False
    assert Cached.kept.all()


EXAMPLE = "an example: family:swim_speed_up>=12 and weapon.class=roller and not token:comeback"
A_CONDITION = (
    "a condition (family:NAME, token:NAME, GROUP=VALUE, region=NAME or activation>NUMBER), `not` or `(`"
)
A_VALUE = "a value (double quotes around anything but letters, digits, _ . + and -)"
QUOTE_IT = 'a name or value with spaces or signs is put in double quotes, as in weapon="a b"'
AS_GROUP = "this was read as a group; a token is token:NAME, a family family:NAME"


@pytest.mark.parametrize(
    ("text", "found", "expected", "hint"),
    [
        ("a=b and", "the end", A_CONDITION, None),
        ("and ^a=b", "`and`", A_CONDITION, None),
        ("a=b or ^or c=d", "`or`", A_CONDITION, None),
        ("^$x", "`$`", A_CONDITION, None),
        ("(a=b", "the end", "`and`, `or` or `)`", None),
        ("a=b^)", "`)`", "`and`, `or` or the end", None),
        ("weapon=splat ^roller", "`roller`", "`and`, `or` or the end", QUOTE_IT),
        ("token:a^🙂", "`🙂`", "`and`, `or` or the end", QUOTE_IT),
        ("token:^🙂", "`🙂`", A_VALUE, None),
        ("weapon in (a ^b)", "`b`", "a comma or `)`", QUOTE_IT),
        ("weapon in (^)", "`)`", A_VALUE, None),
        ("weapon ^not in (a)", "`not`", "a dot and an attribute, `=`, `!=` or `in (...)`",
         "the negation stands first: not weapon in (a, b)"),
        ("weapon^>=3", "`>`", "a dot and an attribute, `=`, `!=` or `in (...)`", AS_GROUP),
        ("comeback", "the end", "a dot and an attribute, `=`, `!=` or `in (...)`", AS_GROUP),
        ("ability^:x", "`:`", "a dot and an attribute, `=`, `!=` or `in (...)`", AS_GROUP),
        ("a.b^.c=d", "`.`", "`=`, `!=` or `in (...)`", None),
        ("weapon=^(none)", "`(`", A_VALUE, 'the missing value is written "(none)", with its quotes'),
        ("token:^'a'", "`'`", A_VALUE, "quotes are double"),
        ('token:^"a', '`"`', A_VALUE, "the quote is not closed; inside, a line break is \\n and a tab \\t"),
        ('^"a b"=c', '`"`', A_CONDITION,
         'a quoted name stands behind its kind: token:"a b" or group:"a b"=VALUE'),
        ("a=b ^&& c=d", "`&`", "`and`, `or` or the end", "the words are and, or, not"),
        ("family:", "the end", "a name (double quotes around anything but letters, digits, _ and -)", None),
        ("family:x>=^1.5", "`1`", "a level (a whole number)", None),
        ("family:x=^=3", "`=`", "a level (a whole number)", "equality is a single ="),
        ("family:x=^>3", "`>`", "a level (a whole number)", "at least is >="),
        ("family:x=^<3", "`<`", "a level (a whole number)", "at most is <="),
        ("family:x ^in (3)", "`in`", "`>=`, `>`, `<=`, `<`, `=`, `!=`, `and`, `or` or the end", QUOTE_IT),
        ("activation>^x", "`x`", "a number such as 1.5 or 1e-4", None),
        ("activation>^nan", "`nan`", "a number such as 1.5 or 1e-4", None),
        ("region^>core", "`>`", "`=`, `!=` or `in (...)`", None),
    ],
)  # fmt: skip
def test_a_text_that_is_no_rule_is_answered_with_what_was_expected_where(
    text: str, found: str, expected: str, hint: str | None
) -> None:
    """The spot is marked by ^ in the table, or is the end; `and ^a=b` stands for the start of the text."""
    start = 0 if text.startswith("and ^") else text.find("^") if "^" in text else len(text)
    text = text.replace("^", "")
    word = {"the end": " ", "`🙂`": "xx"}.get(found, found.strip("`"))
    with pytest.raises(BadInput) as error:
        parse_rule(text)
    assert str(error.value).split("\n") == [
        f"the rule cannot be read at column {start + 1}: found {found}, expected {expected}",
        f"  {text}",
        f"  {' ' * start}{'^' * len(word)} column {start + 1}",
        *([hint] if hint else []),
        EXAMPLE,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"the rule is empty; {EXAMPLE}"),
        (" \n", f"the rule is empty; {EXAMPLE}"),
        ("a=" + "b" * 2_000, "the rule has 2,002 characters; at most 2,000 are read"),
        (
            "(" * 31 + "a=b" + ")" * 31,
            "parentheses and nots are nested more than 30 deep\n"
            f"  {'(' * 31}a=b{')' * 31}\n  {' ' * 30}^ column 31",
        ),
        (
            "not (" * 15 + "not a=b" + ")" * 15,
            "parentheses and nots are nested more than 30 deep\n"
            f"  ...{'not (' * 12}not a=b{')' * 15}\n  {' ' * 63}^ column 76",
        ),
        (
            "weapon=a\u200bb",
            "the rule holds a character that cannot be seen, U+200B\n"
            "  weapon=a\\u200bb\n          ^^^^^^ column 9\n"
            "inside double quotes it is written \\u200b; elsewhere take it out",
        ),
        (
            "a=b \U000e0041\U000e0042",
            "the rule holds a character that cannot be seen, U+E0041\n"
            "  a=b \\udb40\\udc41\\udb40\\udc42\n      ^^^^^^^^^^^^ column 5\n"
            "inside double quotes it is written \\udb40\\udc41; elsewhere take it out",
        ),
        (
            "\x00",
            "the rule holds a character that cannot be seen, U+0000\n  \\x00\n  ^^^^ column 1\n"
            "inside double quotes it is written \\x00; elsewhere take it out",
        ),
        (
            'a=b\nand token:"x\\q"',
            '\\q is no escape; there are \\n, \\t, \\r, \\", \\\\, \\xNN and \\uNNNN\n'
            '  a=b\\nand token:"x\\q"\n                   ^^ column 17',
        ),
        (
            'token:"\\ud83d"',
            "half of a surrogate pair is no character; write both halves, as in \\ud83d\\ude42\n"
            '  token:"\\ud83d"\n        ^^^^^^^^ column 7',
        ),
        (
            "activation>1e999",
            "1e999 is too large for a number\n  activation>1e999\n             ^^^^^ column 12",
        ),
    ],
)
def test_a_rule_beyond_the_limits_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadInput) as error:
        parse_rule(text)
    assert str(error.value) == message


def test_the_deepest_and_the_longest_rules_that_are_allowed_are_read() -> None:
    deepest = "not (" * 15 + "a=b" + ")" * 15
    assert parse_rule(deepest).canonical() == "not " * 15 + "a=b"
    longest = "a=" + "b" * 1_998
    assert parse_rule(longest).canonical() == longest
    widest = parse_rule(" or ".join(["a=b"] * 249)).root
    assert isinstance(widest, Or)
    assert len(widest.parts) == 249


@pytest.mark.parametrize("text", ["(" * 1_000, "not " * 499 + "a=b $", "(" * 990 + "a=b" + ")" * 990 + "$"])
def test_a_text_nested_far_too_deep_is_a_clean_error(text: str) -> None:
    with pytest.raises(BadInput):
        parse_rule(text)


@pytest.mark.parametrize(
    ("text", "problem", "place"),
    [
        ("a=b or family:swin>=3", "there is no family \"swin\"; nearest: 'swim'", "swin"),
        ("family:weapon", "there is no family \"weapon\"; there are: 'swim', 'depth'; or try weapon=VALUE",
         "weapon"),
        ("family:swim>=4 and family:swim=4", 'family "swim" has no level 4; its levels: 3, 6, 12', "4"),
        ("family:swim!=4", 'family "swim" has no level 4; its levels: 3, 6, 12', "4"),
        ("family:depth=31", 'family "depth" has no level 31; its levels: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, '
         "12, 13, 14, 15, 16, 17, 18, 19, 20 and 10 more", "31"),
        ("token:swim", 'the vocabulary has no token "swim"; or try family:swim', "swim"),
        ("token:n", r'the vocabulary has no token "n"; nearest: "\n", "not"', "n"),
        (r'token:"\u200b"', r'the vocabulary has no token "\u200b"', r'"\u200b"'),
        ("class=roller", "there is no group \"class\"; nearest: 'weapon.class'", "class"),
        ("swim=3",
         "there is no group \"swim\"; there are: 'weapon', 'season', 'weapon.class'; or try family:swim",
         "swim"),
        ("weapon.clas=roller", "group \"weapon\" has no attribute \"clas\"; nearest: 'class'", "clas"),
        ("season.class=x", 'group "season" has no attribute "class"; there are none', "class"),
        ("weapon in (big, minni)", "group \"weapon\" has no value \"minni\"; nearest: 'mini'", "minni"),
        ("weapon.class!=rollers",
         "attribute \"class\" of group \"weapon\" has no value \"rollers\"; nearest: 'roller'", "rollers"),
        ("region=corre",
         'there is no region "corre"; there are: silent, floor, low, below_core, core, high, tail', "corre"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_its_place_and_the_nearest(
    text: str, problem: str, place: str
) -> None:
    text = text.replace("a=b", "weapon=big")
    start = text.rindex(place)
    with pytest.raises(UnknownName) as error:
        check_rule(parse_rule(text), Names())
    carets = f"  {' ' * start}{'^' * len(place)} column {start + 1}"
    assert str(error.value) == f"{problem}\n  {text}\n{carets}"


def test_a_long_rule_is_shown_around_the_spot_only() -> None:
    text = "weapon=big and " * 20 + "weapon=bag" + " and weapon=big" * 20
    with pytest.raises(UnknownName) as error:
        check_rule(parse_rule(text), Names())
    before, after = ("weapon=big and " * 4)[7:] + "weapon=", " and weapon=big" * 4
    assert str(error.value) == (
        'group "weapon" has no value "bag"; nearest: \'big\'\n'
        f"  ...{before}bag{after}...\n"
        f"  {' ' * 63}^^^ column 308"
    )


RATE, MAX = np.array([0.5, 0.001, 0.02, 0.3]), np.array([2.5, 9.0, np.nan, 1.0])


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("firing_rate>0.01", [0, 2, 3]),
        ("firing_rate>0.01 and max>=2.5", [0]),
        ("firing_rate>1e-4 AND NOT (max<2.5)", [0, 1, 2]),
        ("max!=1", [0, 1]),
        ("max>2.5 or firing_rate=0.3", [1, 3]),
        ("not max>0", [2]),
        ("max=null", [2]),
        ("max!=NULL and firing_rate!=null", [0, 1, 3]),
        ("not (max=null or firing_rate<0.01)", [0, 3]),
        ("explainer=a and max>=2.5", [0, 1]),
        ('Explainer in (a, "b/c d") and (scorer!=3 and not (max>5))', [0, 2, 3]),
        ("explainer=meta-llama/Llama-3.1-70B and scorer in (openai:gpt@x, b) and max>=2.5", [0, 1]),
    ],
)
def test_a_filter_keeps_the_features_whose_metrics_fit_and_nan_fits_nothing(
    text: str, kept: list[int]
) -> None:
    metrics = {"firing_rate": RATE, "max": MAX}
    wanted = parse_metric_filter(text, metrics)
    assert np.flatnonzero(evaluate_metric_filter(wanted, metrics)).tolist() == kept
    assert parse_metric_filter(wanted.canonical(), metrics) == wanted


def test_what_a_filter_selects_rows_by_stands_apart_from_its_metrics() -> None:
    wanted = parse_metric_filter('EXPLAINER in (a, "b/c") and max!=null and (scorer!="null")', ["max"])
    assert wanted.selections() == (
        Selection("explainer", "in", ("a", "b/c")),
        Selection("scorer", "!=", ("null",)),
    )
    assert wanted.metrics() == ("max",)
    assert wanted.canonical() == 'explainer in (a, "b/c") and max!=null and scorer!=null'
    for text in ("not explainer=a", "max>1 or explainer=a", "max>1 and (sae=a or method=b)"):
        with pytest.raises(BadInput, match="selects the rows of the whole filter"):
            parse_metric_filter(text, ["max"])


def test_a_filter_knows_its_metrics_and_its_normal_form() -> None:
    wanted = parse_metric_filter("NOT(max<2.50) and (firing_rate>1E-3 and max<9)", ["max", "firing_rate"])
    assert wanted.metrics() == ("max", "firing_rate")
    assert wanted.canonical() == "not max<2.5 and firing_rate>0.001 and max<9"
    assert isinstance(wanted.root, And)
    assert wanted.root.parts[2] == MetricCondition("max", "<", 9.0)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("max>1 and firing_rat>0.01", UnknownName,
         "there is no metric \"firing_rat\"; nearest: 'firing_rate'\n"
         "  max>1 and firing_rat>0.01\n            ^^^^^^^^^^ column 11"),
        ("0.1<max", BadInput,
         "the filter cannot be read at column 1: found `0`, expected the name of a metric, `not` or `(`\n"
         "  0.1<max\n  ^ column 1\nthe name stands left, what it is compared with right\n"
         "an example: firing_rate>0.01 and not (max<2.5)"),
        ("max>big", BadInput,
         "the filter cannot be read at column 5: found `big`, expected a number such as 1.5 or 1e-4\n"
         "  max>big\n      ^^^ column 5\nan example: firing_rate>0.01 and not (max<2.5)"),
        ("max>1 max<2", BadInput,
         "the filter cannot be read at column 7: found `max`, expected `and`, `or` or the end\n"
         "  max>1 max<2\n        ^^^ column 7\neach condition is one metric, one comparison and one number\n"
         "an example: firing_rate>0.01 and not (max<2.5)"),
        ("max 1", BadInput,
         "the filter cannot be read at column 5: found `1`, expected `>=`, `>`, `<=`, `<`, `=` or `!=`\n"
         "  max 1\n      ^ column 5\nan example: firing_rate>0.01 and not (max<2.5)"),
        ("", BadInput, "the filter is empty; an example: firing_rate>0.01 and not (max<2.5)"),
    ],
)  # fmt: skip
def test_a_filter_is_refused_in_the_same_words_as_a_rule(
    text: str, kind: type[SaeInterpError], message: str
) -> None:
    with pytest.raises(kind) as error:
        parse_metric_filter(text, ["max", "firing_rate"])
    assert str(error.value) == message


ODD = st.sampled_from(
    ["", "not", "IN", "region", "family", "token", "a.b", "(none)", '"', "\\", "\n", "\u3164"]
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.text("ab-_.+ 1", max_size=4) | ODD
COMPARISONS = st.sampled_from([">=", ">", "<=", "<", "=", "!="])
FINITE = st.floats(allow_nan=False, allow_infinity=False).map(lambda x: x + 0.0)
CHOICES = st.sampled_from(["=", "!="])


def _choices(values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, tuple[str, ...]]]:
    among = st.tuples(st.just("in"), st.lists(values, min_size=1, max_size=3).map(tuple))
    return st.tuples(CHOICES, st.tuples(values)) | among


def _nodes(leaves: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    def larger(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        several = st.lists(nodes, min_size=2, max_size=3)
        both, either = several.map(lambda parts: all_of(*parts)), several.map(lambda parts: any_of(*parts))
        return nodes.map(Not) | both | either

    return st.recursive(leaves, larger, max_leaves=6)


ANY_NODE = _nodes(
    st.builds(FamilyCondition, TEXTS, COMPARISONS, st.integers(0, 10**20))
    | st.builds(TokenCondition, TEXTS)
    | st.builds(lambda g, a, c: GroupCondition(g, a, *c), TEXTS, st.none() | TEXTS, _choices(TEXTS))
    | st.builds(lambda c: RegionCondition(*c), _choices(st.sampled_from(REGIONS)))
    | st.builds(ActivationCondition, COMPARISONS, FINITE)
)
GEAR_NODE = _nodes(
    st.builds(FamilyCondition, st.just("swim"), COMPARISONS, st.integers(0, 13))
    | st.builds(TokenCondition, st.sampled_from(["not", "a b"]))
    | st.builds(lambda c: GroupCondition("weapon", None, *c), _choices(st.sampled_from([*CLASS])))
    | st.builds(lambda c: RegionCondition(*c), _choices(st.sampled_from(REGIONS)))
    | st.builds(ActivationCondition, COMPARISONS, st.sampled_from([0.0, 0.1, 1.5, 2.7]))
)


@settings(deadline=None)
@given(ANY_NODE)
def test_the_normal_form_of_any_rule_reads_back_as_that_rule(node: Node) -> None:
    read = parse_rule(node.canonical())
    assert read.root == node
    assert read.canonical() == node.canonical()


@settings(deadline=None)
@given(GEAR_NODE, GEAR_NODE)
def test_de_morgan_holds(a: Node, b: Node) -> None:
    def mask(node: Node) -> list[bool]:
        return [bool(held) for held in evaluate(Rule(node, node.canonical()), Gear())]

    assert mask(Not(all_of(a, b))) == mask(any_of(Not(a), Not(b)))
    assert mask(Not(any_of(a, b))) == mask(all_of(Not(a), Not(b)))
    assert mask(Not(Not(a))) == mask(a)
    assert mask(all_of(a, b)) == [x and y for x, y in zip(mask(a), mask(b), strict=True)]


WORDS = ["family:", "token:", "group:", "region", "activation", "swim", "weapon", "max", "core", "and", "or"]
SIGNS = [".", "=", ">=", "!", "(", ")", ",", "not", "in", "1", "1e", "'", '"', "\\", "\\u", "\\x4", "\\ud800"]
PIECES = [*WORDS, *SIGNS, "\n", "\x00", "é", "🙂", "\U000e0041", "\ud800"]


@settings(deadline=None)
@given(
    st.text(st.characters(), max_size=30)
    | st.lists(st.sampled_from([" ", *PIECES]), max_size=20).map("".join)
    | st.lists(st.sampled_from(PIECES), max_size=20).map(" ".join)
)
def test_whatever_the_text_an_error_is_ours_and_can_be_printed(text: str) -> None:
    def said(read: Callable[[], object]) -> str:
        try:
            read()
        except SaeInterpError as error:
            return str(error)
        return ""

    as_rule = said(lambda: evaluate(check_rule(parse_rule(text), Names()), Gear()))
    as_filter = said(lambda: parse_metric_filter(text, ["max", "firing_rate"]))
    assert (as_rule + as_filter).replace("\n", "").isprintable()
