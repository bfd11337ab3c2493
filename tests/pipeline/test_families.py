import numpy as np
import pytest

from pipeline.config import ExplicitFamily, FamilyConfig, MatchFamily, PositionFamily, RunConfig
from pipeline.families import BracketDepth, token_families
from saeinterp_mcp.errors import BadInput
from tests.pipeline.conftest import EXAMPLE

TOKENS = ["\n", "\n   ", "\n\n       ", "  ", " ", "7", " 12", "'", '"""', " def", "def", "defx", "(("]


def levels(*families: FamilyConfig) -> dict[str, dict[str, int]]:
    return {family.name: family.levels for family in token_families(families, TOKENS)}


def test_a_match_must_fit_the_whole_token() -> None:
    assert levels(MatchFamily(name="definition", match=" ?def")) == {"definition": {" def": 1, "def": 1}}


def test_a_level_can_be_the_length_of_a_capture() -> None:
    family = MatchFamily(name="indentation", match=r"\n+(?P<level> +)", level="length", max_level=5)
    assert levels(family) == {"indentation": {"\n   ": 3, "\n\n       ": 5}}


def test_a_level_can_be_the_number_that_a_capture_spells() -> None:
    assert levels(MatchFamily(name="n", match=r" ?(?P<level>\d+)", level="number")) == {
        "n": {"7": 7, " 12": 12}
    }


def test_a_level_can_be_looked_up_and_what_is_not_there_is_no_member() -> None:
    family = MatchFamily(name="quote", match=r"""(?P<level>'|"{1,3}|\(+)""", level={"'": 1, '"""': 3})
    assert levels(family) == {"quote": {"'": 1, '"""': 3}}


def test_families_that_are_written_out_stand_beside_matched_ones() -> None:
    found = levels(ExplicitFamily(name="space", levels={" ": 1, "  ": 2}), MatchFamily(name="d", match="7"))
    assert found == {"space": {" ": 1, "  ": 2}, "d": {"7": 1}}


def test_a_token_in_two_families_is_refused() -> None:
    with pytest.raises(BadInput) as error:
        levels(MatchFamily(name="digits", match=r"\d+"), MatchFamily(name="seven", match="7"))
    expected = "families: the token '7' is in 'digits' and in 'seven'; a token is in one family at most"
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            MatchFamily(name="broken", match="("),
            "families: 'broken': match '(' is not a regular expression:"
            " missing ), unterminated subpattern at position 0",
        ),
        (
            MatchFamily(name="none", match="zzz"),
            "families: 'none': match 'zzz' matches no token of the dataset as a whole",
        ),
        (
            MatchFamily(name="bare", match="7", level="length"),
            "families: 'bare': level 'length' needs a capture (?P<level>...), which match does not have",
        ),
        (
            MatchFamily(name="word", match="(?P<level>def)", level="number"),
            "families: 'word': 'def' in 'def' is not a number",
        ),
    ],
)
def test_a_match_that_cannot_work_is_refused(family: MatchFamily, message: str) -> None:
    with pytest.raises(BadInput) as error:
        levels(family)
    assert str(error.value) == message


def test_two_families_of_one_name_are_refused() -> None:
    with pytest.raises(BadInput) as error:
        levels(MatchFamily(name="a", match="7"), PositionFamily(name="a", position_family="brackets_depth"))
    assert str(error.value) == "families: two families are called 'a'"


def test_the_depth_of_brackets_follows_the_text() -> None:
    tokens = ["f(", "[1, {", "}", "])", ")", "x", "()", ")(", "(((("]
    depth = BracketDepth(tokens, max_level=5)
    #       f(  [1,{  }  ])  )  x  ()  )(  ((((  ((((
    assert depth.levels(np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8])).tolist() == [1, 3, 2, 0, 0, 0, 0, 1, 5, 5]


def test_the_depth_of_brackets_is_that_of_counting_one_by_one() -> None:
    generator = np.random.default_rng(0)
    tokens = ["".join(generator.choice(list("()[]{}ab"), size=n)) for n in generator.integers(0, 6, size=50)]
    ids = generator.integers(0, 50, size=400)
    expected, depth = [], 0
    for token in ids:
        for character in tokens[token]:
            depth = depth + 1 if character in "([{" else max(depth - 1, 0) if character in ")]}" else depth
        expected.append(min(depth, 4))
    assert BracketDepth(tokens, max_level=4).levels(ids).tolist() == expected


def test_the_families_of_the_example_are_disjoint_and_hold_what_they_name() -> None:
    run = RunConfig.load(EXAMPLE / "run.yaml")
    tokens = [
        "\n   ", "\n    \n   ", "\n\n ", "    ", " ", "\n", "12", " 8859", " '", "',", '"""', "'''", ' "__',
        "__()", "'t", " #", " ==", "<", "=", " +=", "->", "**", " def", "class", "return", "except", " is",
        "None",
        "from", "self", " >>>", "definition", "://",
    ]  # fmt: skip
    assert {family.name: family.levels for family in token_families(run.families, tokens)} == {
        "indentation": {"\n\n ": 2, "\n    \n   ": 4, "\n   ": 4, "    ": 5},
        "digits": {"12": 2, " 8859": 4},
        "quote": {" '": 1, "',": 1, '"""': 3, "'''": 3},
        "dunder": {' "__': 1, "__()": 1},
        "comment": {" #": 1},
        "comparison": {" ==": 1, "<": 1},
        "arithmetic": {"**": 1},
        "assignment": {" +=": 1, "=": 1},
        "definition": {" def": 1, "class": 1},
        "control_flow": {"return": 1},
        "exception": {"except": 1},
        "logic": {" is": 1},
        "constant": {"None": 1},
        "import": {"from": 1},
        "self": {"self": 1},
    }
