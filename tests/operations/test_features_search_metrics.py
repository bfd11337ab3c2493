"""features_search by metrics of the tables beside a store: rows are selected, then averaged; groups are filters."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeinterp_mcp.errors import BadInput, NotInStore, SaeInterpError, UnknownName
from saeinterp_mcp.operations.features_search import FeaturesSearch, features_search
from saeinterp_mcp.operations.search_metrics import METRICS, Metrics
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import memory_store
from tests.operations.validated import ALPHA, BETA, SAE, N, cosine, frame, make, world


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("validated"))


def values(found: FeaturesSearch, column: str) -> dict[int, Any]:
    at = found.columns.index(column)
    return {row[0]: row[at] for row in found.rows}  # type: ignore[misc]


def by(store: Store, metric: str, where: str = "n_firing>=0") -> dict[int, Any]:
    return values(features_search(store, sort=metric, where=where, limit=N), metric)


def test_a_score_is_the_mean_over_explainers_and_scorers_of_explanations_that_did_not_fail(
    store: Store,
) -> None:
    found = by(store, "score_fuzz")
    # both explainers by both scorers: 0.4 + 0.02 f, -0.2 / 2 for beta, +0.1 / 2 for other
    assert found[3] == pytest.approx(0.4 + 0.06 - 0.1 + 0.05)
    # beta is unparsed from 20 on, and only judge scored
    assert found[22] == pytest.approx(0.4 + 0.44)
    assert found[29] is None, "no explanation, no score: not 0"


def test_of_attached_runs_a_score_counts_for_its_own_text_and_one_a_kind(tmp_path: Path) -> None:
    """Runs a and b by one explainer, beside no table of `validate`: b's text of 1, and a's of 2, are unparsed."""
    key = {"sae_id": SAE, "llm_explainer": ALPHA}
    said = [
        {**key, "feature_id": f, "data_source": source, "status": status, "explanation_text": f"{source}{f}"}
        for f, source, status in [
            *((0, "a", "ok"), (0, "b", "ok"), (1, "a", "ok"), (1, "b", "unparsed")),
            *((2, "a", "unparsed"), (2, "b", "ok")),
        ]
    ]
    tests = [
        {
            **key,
            "feature_id": f,
            "data_source": source,
            "llm_scorer": by,
            "method": "detection",
            "score": score,
        }
        for f, source, by, score in [
            *((0, "a", "s1", 0.9), (0, "b", "s1", 0.5), (1, "a", "s1", 0.8), (1, "b", "s2", 0.5)),
            *((2, "a", "s1", 0.5), (2, "b", "s1", 0.7)),
        ]
    ]
    given = {
        "explanation_embeddings": frame("explanation_embeddings", said),
        "scores": frame("scores", tests),
    }
    found = by(make(tmp_path, given), "score_detection")
    assert {f: found[f] for f in range(4)} == {0: 0.9, 1: 0.8, 2: 0.7, 3: None}


def test_rows_are_selected_before_they_are_averaged(store: Store) -> None:
    alpha = by(store, "score_fuzz", f'explainer="{ALPHA}" and scorer=judge')
    assert alpha[3] == pytest.approx(0.46)
    beta = by(store, "score_fuzz", "explainer=beta and scorer in (judge, other)")
    assert beta[3] == pytest.approx(0.26 + 0.05)
    assert sorted(beta) == list(range(25)), "features with a row of beta"
    assert beta[22] is None, "its explanation could not be parsed"
    assert by(store, "score_fuzz", "explainer!=beta")[3] == pytest.approx(0.46 + 0.05)
    other = by(store, "score_fuzz", "scorer=other")
    assert sorted(other) == list(range(20))


def test_a_constraint_is_on_the_mean_and_one_good_row_does_not_pass(store: Store) -> None:
    """alpha by other gives feature 3 a fuzz of 0.56; its mean is 0.41."""
    assert 3 not in by(store, "score_fuzz", "score_fuzz>0.5")
    assert 3 in by(store, "score_fuzz", f'score_fuzz>0.5 and explainer="{ALPHA}" and scorer=other')


def test_similarity_of_explanations_is_the_mean_over_pairs(store: Store) -> None:
    found = by(store, "semsim_mean")
    assert found[4] == pytest.approx(cosine(4))
    assert found[22] is None
    assert by(store, "semsim_percentile")[4] == 90.0
    averaged = values(features_search(store, sort="semsim_mean", where="n_firing>=0", limit=N), "n_averaged")
    assert (averaged[4], averaged[22]) == (1, 0), "a pair counts once"


def test_metrics_of_examples_and_directions_are_those_of_their_tables(store: Store) -> None:
    assert by(store, "activation_semantic_sim")[6] == pytest.approx(0.2)
    assert by(store, "semantic_percentile")[6] == 18.0
    assert by(store, "activation_max_jaccard")[6] == pytest.approx(0.8)
    assert set(by(store, "lexical_percentile").values()) == {None}
    assert by(store, "feature_splitting")[6] == pytest.approx(0.2)


def test_a_match_rate_is_that_of_the_selected_explainers(store: Store) -> None:
    assert by(store, "match_rate")[7] == pytest.approx(2 / 6)
    assert by(store, "match_rate", f'explainer="{ALPHA}"')[7] == 0.5
    assert by(store, "match_rate", "explainer=beta")[7] == 0.0
    assert by(store, "match_rate", "explainer=beta")[22] is None, "nothing was tested"
    assert by(store, "match_percentile", "explainer=beta")[7] == 40.0
    assert by(store, "match_percentile")[7] == 70.0


def test_the_overall_score_is_the_mean_of_two_z_and_leaves_embedding_out(store: Store) -> None:
    """By hand: fuzz by explanation is the mean over scorers; detection is fuzz - 0.1, so that both z are equal."""
    fuzz = {}
    for f in range(N - 1):
        fuzz[f, ALPHA] = 0.4 + 0.02 * f + (0.05 if f < 20 else 0)
        if f < 20:
            fuzz[f, BETA] = fuzz[f, ALPHA] - 0.2
    every = np.array(list(fuzz.values()))
    z = {key: (value - every.mean()) / every.std(ddof=1) for key, value in fuzz.items()}
    found = by(store, "overall_score")
    assert found[3] == pytest.approx((z[3, ALPHA] + z[3, BETA]) / 2, abs=1e-5)
    assert found[25] == pytest.approx(z[25, ALPHA], abs=1e-5)
    alone = by(store, "overall_score", "explainer=beta")
    assert alone[3] == pytest.approx(z[3, BETA], abs=1e-5), "the scale is that of all explanations"


def test_null_is_asked_for_by_name_and_passes_no_comparison(store: Store) -> None:
    assert sorted(by(store, "max", "score_fuzz=null")) == [29]
    assert sorted(by(store, "max", "score_fuzz!=null")) == list(range(29))
    assert 29 not in by(store, "max", "score_fuzz>=0 or score_fuzz<0")
    last = features_search(store, sort="score_fuzz", where="n_firing>=0", limit=N).rows[-1]
    assert (last[0], last[4]) == (29, "score_fuzz is not known")


def test_groups_cut_a_metric_and_count_what_is_not_known_apart(store: Store) -> None:
    found = features_search(
        store, sort="score_fuzz", thresholds=[0.5, 0.7], where=f'explainer="{ALPHA}" and scorer=judge'
    )
    assert found.groups is not None
    assert found.groups.columns == ["label", "low", "high", "n", "share", "where"]
    assert [row[:4] for row in found.groups.rows] == [
        ["< 0.5", None, 0.5, 5],
        ["0.5 - 0.7", 0.5, 0.7, 10],
        [">= 0.7", 0.7, None, 14],
        ["null", None, None, 0],
    ]
    assert (
        found.groups.rows[1][5]
        == 'explainer="lab/alpha" and scorer=judge and score_fuzz>=0.5 and score_fuzz<0.7'
    )
    assert found.total == 29
    every = features_search(store, sort="score_fuzz", thresholds=[0.5])
    assert every.groups is not None
    assert [row[3] for row in every.groups.rows] == [8, 21, 1]
    assert sum(row[4] for row in every.groups.rows) == pytest.approx(1)  # type: ignore[misc]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_where_of_a_group_selects_exactly_that_group(data: st.DataObject, store: Store) -> None:
    metric = data.draw(st.sampled_from(METRICS))
    numbers = [float(v) for v in Metrics(store, "explain")[metric] if v == v] or [0.0]
    cut = st.sampled_from(numbers) | st.floats(-2, 100)
    cuts = sorted(set(data.draw(st.lists(cut, min_size=1, max_size=4))))
    where = data.draw(
        st.sampled_from([None, "max>4", "max>4 or score_fuzz=null", "explainer=beta and max>2", "not max<9"])
    )
    found = features_search(store, sort=metric, where=where, thresholds=cuts, limit=N)
    assert found.groups is not None
    assert len(found.groups.rows) == len(cuts) + 2
    parts = []
    for row in found.groups.rows:
        again = features_search(store, sort=metric, where=str(row[5]), limit=N)
        assert again.total == row[3], row
        parts.append({one[0] for one in again.rows})
    assert set().union(*parts) == {one[0] for one in found.rows}, "every feature is in one"
    assert sum(map(len, parts)) == found.total, "and in one only"
    known: dict[Any, Any] = dict(values(found, metric)) if metric in found.columns else {}
    for (low, high), part in zip(pairwise([-np.inf, *cuts, np.inf]), parts[:-1], strict=True):
        # values in answers are rounded to 6 digits
        assert all(known[f] is None or low - 1e-4 <= known[f] <= high + 1e-4 for f in part if f in known)


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"thresholds": [0.5]}, BadInput,
         "thresholds cut the metric that sort names, e.g. sort score_fuzz with thresholds 0.5 and 0.7"),
        ({"thresholds": [0.7, 0.5], "sort": "max"}, BadInput, "thresholds ascend, but 0.5 comes after 0.7"),
        ({"thresholds": [0.5, 0.5], "sort": "max"}, BadInput,
         "the threshold 0.5 is there twice; groups between equal numbers are empty"),
        ({"thresholds": [], "sort": "max"}, BadInput, "1 to 20 thresholds make groups, found 0"),
        ({"thresholds": [float("nan")], "sort": "max"}, BadInput, "a threshold is a finite number, not nan"),
        ({"thresholds": [1.0], "sort": "score_fuz"}, UnknownName,
         f"no metric 'score_fuz' to sort by; there are: {', '.join(METRICS)}"),
        ({"where": "score_fuz>0.5"}, UnknownName,
         "there is no metric \"score_fuz\"; nearest: 'score_fuzz', 'score_surprisal', 'score_simulation'\n"
         "  score_fuz>0.5\n  ^^^^^^^^^ column 1"),
        ({"where": 'max>1 and explainer="lab/alfa"'}, UnknownName,
         "there is no explainer \"lab/alfa\"; nearest: 'lab/alpha'\n"
         "  max>1 and explainer=\"lab/alfa\"\n                      ^^^^^^^^^^ column 21"),
        ({"where": "scorer=judges"}, UnknownName,
         "there is no scorer \"judges\"; nearest: 'judge'\n  scorer=judges\n         ^^^^^^ column 8"),
        ({"where": "max>1 or explainer=beta"}, BadInput,
         "explainer selects the rows of the whole filter, so it cannot stand inside or, or not\n"
         "  max>1 or explainer=beta\n           ^^^^^^^^^^^^^^ column 10\n"
         "join it to the rest with and; one of several is explainer in (a, b)"),
        ({"where": "score_fuzz=none"}, BadInput,
         "the filter cannot be read at column 12: found `none`, expected a number such as 1.5 or 1e-4\n"
         "  score_fuzz=none\n             ^^^^ column 12\nwhat is not known is null: score_fuzz=null\n"
         "an example: firing_rate>0.01 and not (max<2.5)"),
    ],
)  # fmt: skip
def test_a_wrong_metric_name_or_threshold_is_refused(
    wrong: dict[str, Any], kind: type[SaeInterpError], message: str, store: Store
) -> None:
    with pytest.raises(kind) as refused:
        features_search(store, **wrong)
    assert str(refused.value) == message


def test_selected_methods_and_saes_are_those_of_the_tables(store: Store) -> None:
    assert len(by(store, "score_fuzz", "method=quantiles")) == 29
    assert len(by(store, "score_fuzz", 'sae="planted/sae"')) == 29, "any spelling of the SAE"
    with pytest.raises(UnknownName, match="there is no sae"):
        features_search(store, where="sae=other")
    with pytest.raises(UnknownName, match="there is no method"):
        features_search(store, where="method=top")


def test_without_tables_a_metric_of_theirs_is_refused_and_others_still_work() -> None:
    bare = memory_store(world())
    with pytest.raises(NotInStore, match="score_fuzz is of tables beside a store"):
        features_search(bare, sort="score_fuzz")
    groups = features_search(bare, sort="max", thresholds=[10.0]).groups
    assert groups is not None
    assert [row[3] for row in groups.rows] == [10, 20, 0]


def test_an_answer_without_groups_has_no_such_field_so_that_old_evidence_holds(store: Store) -> None:
    assert "groups" not in features_search(store, sort="max").model_dump(mode="json")
    again = features_search(store, sort="score_fuzz", thresholds=[0.5])
    assert again.evidence == features_search(store, sort="score_fuzz", thresholds=[0.5]).evidence
    assert again.evidence != features_search(store, sort="score_fuzz", thresholds=[0.6]).evidence
