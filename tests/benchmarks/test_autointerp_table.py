"""The page's table is made from the results alone, and a small world is measured as it was."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.autointerp.planted.__main__ import RESULTS
from benchmarks.autointerp.planted.claims import Form, Formula, Sample, read_claim, rule_of, tokens_named
from benchmarks.autointerp.planted.evidence import read_evidence
from benchmarks.autointerp.planted.measure import EXPLAINED, IN_WORDS, NO, ORACLE, holds, measure
from benchmarks.autointerp.planted.reader import explained, judged
from benchmarks.autointerp.planted.records import Graded, Line, Results, lines, part_of
from benchmarks.autointerp.planted.running import reader
from benchmarks.autointerp.planted.table import render
from benchmarks.autointerp.planted.worlds import build, planted
from benchmarks.recover.truth import NULL, Truth
from benchmarks.recover.worlds import WorldKind
from saeinterp_mcp.operations.slicing import Scoping, StoreRows
from saeinterp_mcp.rules import evaluate, parse_rule
from saeinterp_mcp.store.open import open_store
from tests.conftest import ROOT

SEED = 101
"""The one that the reader was made on: this is a regression test, not a result."""


def test_the_page_shows_the_results_that_are_kept() -> None:
    page = (ROOT / "docs" / "autointerp.md").read_text(encoding="utf-8")
    assert render(Results.model_validate_json(RESULTS.read_text(encoding="utf-8"))) in page


@pytest.mark.parametrize(
    ("formula", "label", "rule"),
    [
        (Formula("any", ("bako", "tilu")), "bako or tilu", 'token:" bako" or token:" tilu"'),
        (Formula("all", ("f05>=20", "f02")), "f05>=20 together with f02", "family:f05>=20 and family:f02"),
        (Formula("without", ("f02", "g=g01")), "f02 without g=g01", "family:f02 and not g=g01"),
        (
            Formula("either", ("f02", "f03")),
            "either f02 or else f03",
            "(family:f02 and not family:f03) or (family:f03 and not family:f02)",
        ),
        (Formula("none", ("bako",)), "none of bako", 'not (token:" bako")'),
    ],
)
def test_a_claim_is_read_back_as_it_was_meant(formula: Formula, label: str, rule: str) -> None:
    assert formula.label == label
    assert read_claim(f"{formula.label}: {formula.said}") == formula
    assert rule_of(formula, in_text=True) == rule


def test_the_search_labels_words_are_any_of_them_and_unclear_is_never() -> None:
    assert read_claim("f05_40, f02: Fires where the sample holds f05_40 (20 % of all).") == Formula(
        "any", ("f05_40", "f02")
    )
    assert read_claim("unclear: Counting words tells nothing: few.") == Formula("never")


def test_a_claim_holds_where_it_says() -> None:
    both, one, neither = Sample(["f05_5", "f05_20", "t_a1"]), Sample(["t_a1"]), Sample(["t_b1"])
    forms: tuple[Form, ...] = ("any", "all", "without", "either", "none", "never")
    assert {f: [Formula(f, ("t_a1", "f05>=20")).holds(s) for s in (both, one, neither)] for f in forms} == {
        "any": [True, True, False],
        "all": [True, False, False],
        "without": [False, True, False],
        "either": [False, True, False],
        "none": [False, False, True],
        "never": [False, False, False],
    }
    assert "f05>=40" not in both
    assert "f05" in both


def test_levels_are_named_by_the_tokens_from_there_on() -> None:
    formula = Formula("any", ("f05>=20", "f02>=6", "g=g01"))
    assert tokens_named(formula, {"f05": {"f05_10": 10, "f05_20": 20, "f05_40": 40}}) == {
        "f05_20",
        "f05_40",
        "f02_6",
        "g=g01",
    }


TEXT = """The feature fires on 20 of the 120 tokens of this part of the data set (16.7 %), in 9 of 30 documents.

Excerpts where it fires (3):
<excerpts>
1:  mipo<< bako>> tilu bako
activations: (" bako", 10), (" bako", 8)
2: << bako>> tilu tilu
activations: (" bako", 3)
3:  tilu mipo<< mipo>>
activations: (" mipo", 1)
</excerpts>

Excerpts where it is silent throughout (1: 1 drawn from all silent ones):
<excerpts>
1:  tilu mipo
</excerpts>
{more}
What does this feature go with? Answer with the JSON object.
"""
COUNTED = """
Counted over all of this part of the data set, tokens with which it surely fires more often:
<excerpts>
1: token " bako": fires on 90 % of 20 with it, 2 % without; mean activation +1 with it
</excerpts>
"""


def test_a_text_shows_tokens_that_fire_and_those_beside_them() -> None:
    found = read_evidence(TEXT.format(more=COUNTED))
    assert sorted(name for row in found.firing for name in row.names) == ["bako", "bako", "bako", "mipo"]
    assert sorted(name for row in found.silent for name in row.names) == 3 * ["mipo"] + 5 * ["tilu"]
    # 18 of the 20 firing ones, and 2 of the 100 silent ones
    assert list(found.shares) == ["bako"]
    assert found.shares["bako"] == pytest.approx((0.9, 0.02))


def test_the_reader_names_what_fires_and_nothing_that_is_as_often_silent() -> None:
    said = explained(TEXT.format(more=COUNTED))
    assert (said["label"], said["rule"], said["confidence"]) == ("bako", 'token:" bako"', 94)
    assert explained(TEXT.format(more=""))["label"] == "bako"


def test_the_reader_sees_no_pattern_where_statistics_say_that_there_is_none() -> None:
    none = "\nCounted over all of this part of the data set, no token and no group surely goes with its firing.\n"
    assert explained(TEXT.format(more=none))["granularity"] == "unclear"


SETS = """The feature fires on 40 of the 400 samples of this part of the data set (10 %), in 40 of 400 units.

Excerpts where it fires (3):
<excerpts>
1: g: g01; g.a1: a1v1; tokens: f02_3, f02_6, f05_20, t_a1
activation: 9 of 10
2: g: g02; g.a1: a1v1; tokens: f02_3, f05_40
activation: 5 of 10
3: g: g03; g.a1: a1v2; tokens: f02_3, f02_6, f05_40
activation: 1 of 10
</excerpts>

Counted over all of this part of the data set, silent samples too, tokens with which it surely fires more often:
<excerpts>
1: token "f05_40": fires on 50 % of 40 with it, 5 % without; mean activation +1 with it
2: token "f05_20": fires on 50 % of 40 with it, 5 % without; mean activation +1 with it
</excerpts>

What does this feature go with? Answer with the JSON object.
"""


def test_levels_that_are_never_together_add_up() -> None:
    said = explained(SETS)
    # 20 of 40 and 20 of 40 firing; 20 of 360 and 20 of 360 silent: (1 + 1 - 1/9) / 2
    assert (said["rule"], said["confidence"]) == ("family:f05>=20", 94)


def test_the_judge_takes_the_claim_at_its_word() -> None:
    claim = Formula("all", ("f05>=20", "g=g01"))
    user = f"""<claim>
{claim.label}: {claim.said}
</claim>

<excerpts>
t1: g: g01; tokens: f05_40
t2: g: g02; tokens: f05_40
t3: g: g01; tokens: f05_5, t_a1
</excerpts>"""
    assert [entry["probability"] for entry in judged("", user)["answers"]] == [100, 0, 0]
    bako = '<claim>\nbako: Fires where there is "bako".\n</claim>'
    fuzzing = f"{bako}\n\n<excerpts>\nt1:  tilu<< bako tilu>>\n</excerpts>"
    assert judged("some tokens are marked, <<so>>", fuzzing)["answers"] == [{"id": "t1", "probability": 50}]


def test_a_feature_with_no_claim_counts_as_the_floor() -> None:
    some = [
        Graded(
            contender="a", feature=0, stratum="or", seen="shown", claims=True, detection=0.9, tokens_f1=1.0
        ),
        Graded(contender="a", feature=1, stratum="or", seen="shown", claims=False),
    ]
    (line,) = lines(some)
    assert (line.n_claims, line.detection.value, line.detection_of_claims.value) == (1, 0.7, 0.9)
    assert line.tokens_f1.value == 0.5
    assert part_of("set", 1, some).by_stratum["or"]["a"].value == 0.7


@pytest.fixture(scope="module", params=["set", "sequence"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Truth]]:
    kind: WorldKind = request.param
    place = tmp_path_factory.mktemp(kind) / "world"
    n_units, per_stratum = (1200, 1) if kind == "set" else (400, 4)
    return build(place, kind, SEED, False, n_units=n_units, features_per_stratum=per_stratum)


def test_what_is_planted_is_said_in_words_that_hold_on_the_same_rows(world: tuple[Path, list[Truth]]) -> None:
    location, truths = world
    store = open_store(location)
    said = {t.feature: found for t in truths if (found := planted(store, t)) is not None}
    assert len(said) >= 3
    for truth in truths:
        if truth.feature in said and truth.structure is not None:
            rule = evaluate(parse_rule(truth.structure.rule), StoreRows(store, "all", Scoping(), None))
            assert np.array_equal(holds(store, said[truth.feature]), rule)


def test_a_small_world_is_measured(world: tuple[Path, list[Truth]]) -> None:
    location, truths = world
    store = open_store(location)
    kept = [t for t in truths if t.stratum in NULL or planted(store, t) is not None]
    with reader() as server:
        some = {name: EXPLAINED[name] for name in ("search label", "contrastive, statistics")}
        graded = list(measure(location, kept, 20, some))
        assert server.n_requests > 0
    found: dict[str, Line] = {
        line.contender: line for line in lines([g for g in graded if g.seen == "shown"])
    }
    assert found[NO].detection.value == 0.5
    # the judge reads the oracle's words as the rule itself answers
    assert found[IN_WORDS].detection == found[ORACLE].detection
    assert found[IN_WORDS].tokens_f1.value == found[IN_WORDS].same_rows.value == 1.0
    best = found["contrastive, statistics"].detection.value
    oracle = found[ORACLE].detection.value
    assert best is not None
    assert oracle is not None
    assert best > oracle - 0.1 > 0.5
