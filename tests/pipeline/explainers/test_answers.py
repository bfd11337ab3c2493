"""How answers are read, and every way of being none."""

import json
from typing import Any

import anthropic
import jsonschema
import pytest

from pipeline.explainers import EXPLAINERS
from pipeline.explainers.answer import ANSWER_SCHEMA
from pipeline.explainers.base import Explanation, InvalidExplanation
from saeinterp_mcp.clients.base import Reply, json_object
from tests.pipeline.explainers.world import store_of

STORE = store_of("pets")
GOOD: dict[str, Any] = {
    "explanation": "The word cat, at the word itself; dogs do not belong to it.",
    "label": "the word cat",
    "granularity": "token",
    "polarity": "present",
    "confidence": 90,
    "rule": 'token:" cat"',
}


def read(**changes: Any) -> Explanation:
    """What is read from the good answer with some fields changed, as a client hands it over."""
    text = json.dumps(GOOD | changes)
    reply = Reply(outcome="answered", text=text, value=json_object(text))
    return EXPLAINERS["max_activating"]().read(STORE, reply)


def read_without(field: str) -> Explanation:
    value = {name: held for name, held in GOOD.items() if name != field}
    return EXPLAINERS["contrastive"]().read(STORE, Reply(outcome="answered", value=value))


def test_a_good_answer_is_read_as_it_stands() -> None:
    assert read() == Explanation(
        label="the word cat",
        explanation="The word cat, at the word itself; dogs do not belong to it.",
        granularity="token",
        polarity="present",
        confidence=0.9,
        rule='token:" cat"',
        remarks=(),
    )


def test_the_good_answer_fits_the_schema_and_the_schema_is_strict() -> None:
    jsonschema.validate(GOOD, ANSWER_SCHEMA)
    jsonschema.validate(GOOD | {"rule": None}, ANSWER_SCHEMA)
    assert ANSWER_SCHEMA["additionalProperties"] is False
    assert set(ANSWER_SCHEMA["required"]) == set(ANSWER_SCHEMA["properties"]) == set(GOOD)


def test_the_sdk_of_a_provider_takes_the_schema_as_it_is() -> None:
    assert anthropic.transform_schema(ANSWER_SCHEMA)["required"] == ANSWER_SCHEMA["required"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label": ""}, "empty label"),
        ({"label": " \n "}, "empty label"),
        ({"label": None}, "label is no text"),
        ({"label": ["cat"]}, "label is no text"),
        ({"label": "word " * 31}, "label too long"),
        ({"label": "x" * 151}, "label too long"),
        ({"explanation": ""}, "empty explanation"),
        ({"explanation": 3}, "explanation is no text"),
        ({"explanation": "x" * 1001}, "explanation too long"),
        ({"granularity": "lexical"}, "unknown granularity"),
        ({"granularity": None}, "unknown granularity"),
        ({"polarity": "maybe"}, "unknown polarity"),
        ({"confidence": "90"}, "confidence is no number"),
        ({"confidence": True}, "confidence is no number"),
        ({"confidence": None}, "confidence is no number"),
        ({"confidence": 101}, "confidence out of range"),
        ({"confidence": -1}, "confidence out of range"),
        ({"confidence": float("nan")}, "confidence out of range"),
        ({"confidence": float("inf")}, "confidence out of range"),
        ({"rule": 7}, "rule is no text"),
    ],
)
def test_rubbish_is_refused_for_a_reason_that_can_be_counted(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidExplanation) as refused:
        read(**changes)
    assert str(refused.value) == reason


@pytest.mark.parametrize("field", ["explanation", "label", "granularity", "polarity", "confidence"])
def test_a_field_that_is_missing_is_named(field: str) -> None:
    with pytest.raises(InvalidExplanation) as refused:
        read_without(field)
    assert str(refused.value) == f"no {field}"


def test_a_rule_may_be_missing() -> None:
    assert read_without("rule").rule is None


@pytest.mark.parametrize("outcome", ["refused", "truncated", "invalid", "failed"])
def test_what_is_no_answer_is_no_explanation(outcome: Any) -> None:
    for value in (None, GOOD):
        with pytest.raises(InvalidExplanation, match=r"^no answer$"):
            EXPLAINERS["max_activating"]().read(STORE, Reply(outcome=outcome, value=value))
    with pytest.raises(InvalidExplanation, match=r"^no answer$"):
        EXPLAINERS["max_activating"]().read(STORE, Reply(outcome="answered"))


def test_unclear_is_a_legal_answer() -> None:
    said = read(granularity="unclear", label="unclear", explanation="Looked for animals: no.", rule=None)
    assert said.is_unclear
    assert (said.label, said.explanation, said.rule, said.remarks) == (
        "unclear", "Looked for animals: no.", None, (),
    )  # fmt: skip
    assert read(granularity="unclear", label="", explanation="").label == "unclear"


@pytest.mark.parametrize("label", ["unclear", "Unclear.", "N/A", "no clear pattern"])
def test_a_label_that_says_there_is_none_is_unclear_whatever_else_is_filled_in(label: str) -> None:
    said = read(label=label)
    assert said.is_unclear
    assert said.rule is None
    assert said.remarks[0] == "the label says that there is none: read as unclear"


def test_the_word_none_is_a_label() -> None:
    assert not read(label="None").is_unclear


def test_a_label_of_ten_words_is_cut_and_stands_whole_in_the_explanation() -> None:
    nine = "one two three four five six seven eight nine"
    assert read(label=nine).label == nine
    assert read(label=nine).remarks == ()
    said = read(label=f"{nine} but not ten", explanation="As above.")
    assert said.label == nine
    assert said.explanation == f"{nine} but not ten. As above."
    assert said.remarks == ("label of 12 words cut to 9; it stands whole in the explanation",)


def test_a_share_is_read_as_one_with_a_remark() -> None:
    assert read(confidence=1).confidence == 0.01
    assert read(confidence=0).confidence == 0.0
    assert read(confidence=0.8).confidence == 0.8
    assert read(confidence=0.8).remarks == ("confidence under 1 read as a share, not as percent",)


def test_words_in_capitals_or_with_blanks_are_understood() -> None:
    said = read(granularity=" Token ", polarity="PRESENT", label=" the  word\ncat ")
    assert (said.granularity, said.polarity, said.label) == ("token", "present", "the word cat")


def test_what_cannot_be_seen_is_made_visible() -> None:
    said = read(label="cat\u202e\x1b[31m", explanation="a\u200bb \ud800")
    assert said.label == "cat\\u{202e}\\u{1b}[31m"
    assert said.explanation == "a\\u{200b}b \\u{d800}"


@pytest.mark.parametrize("rule", [None, "", "null", " None "])
def test_no_rule_is_no_remark(rule: str | None) -> None:
    said = read(rule=rule)
    assert (said.rule, said.remarks) == (None, ())


def test_a_rule_is_kept_in_its_normal_form() -> None:
    assert read(rule='(token:" cat") AND not family:animal>1').rule == 'token:" cat" and not family:animal>1'


@pytest.mark.parametrize(
    ("rule", "remark"),
    [
        ("cats of all kinds", "rule dropped: the rule cannot be read at column 6"),
        ('token:" zebra"', 'rule dropped: the vocabulary has no token " zebra"'),
        ("family:zoo>=2", 'rule dropped: there is no family "zoo"'),
        ("book=b9", 'rule dropped: group "book" has no value "b9"'),
        ("activation>0", "rule dropped: it reads the feature's own activation"),
        ("region=core", "rule dropped: it reads the feature's own activation"),
        ("not " * 40 + "family:animal", "rule dropped: parentheses and nots are nested"),
        ("x" * 3000, "rule dropped: "),
    ],
)
def test_a_rule_that_the_store_cannot_test_is_dropped_with_a_remark(rule: str, remark: str) -> None:
    said = read(rule=rule)
    assert said.rule is None
    assert said.label == "the word cat"
    assert len(said.remarks) == 1
    assert said.remarks[0].startswith(remark)
    assert "\n" not in said.remarks[0]


def test_an_unclear_answer_has_no_rule() -> None:
    said = read(granularity="unclear")
    assert (said.rule, said.remarks) == (None, ("rule dropped: the answer is that it is unclear",))
