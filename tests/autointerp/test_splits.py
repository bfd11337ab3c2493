"""Explaining and scoring samples never overlap, whatever is asked with whatever seed."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.explainers import EXPLAINERS
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.scorers import SCORERS
from saeinterp_mcp.store.memory_store import memory_store
from tests.autointerp.worlds import named_documents, splits_in

STORE = memory_store(named_documents())


@settings(max_examples=40, deadline=None)
@given(
    feature=st.sampled_from([0, 1, 2, 5, 6, 7]),
    explainer=st.sampled_from([name for name, made in EXPLAINERS.items() if made().needs_model]),
    method=st.sampled_from([name for name, scorer in SCORERS.items() if scorer.needs == "judge"]),
    seeds=st.tuples(st.integers(0, 2**32), st.integers(0, 2**32)),
    n=st.integers(20, 100),
)
def test_no_text_is_in_requests_of_both_kinds(
    feature: int, explainer: str, method: str, seeds: tuple[int, int], n: int
) -> None:
    scorer = SCORERS[method]
    try:
        told = EXPLAINERS[explainer]().request(STORE, feature, seeds[0])
        trials = scorer.make(STORE, feature, n, seeds[1])
    except NotInStore:
        return
    assert splits_in(told.system + told.user) == {"explain"}
    asked = "".join(request.user for request, _ in scorer.requests("it fires on a word", trials))
    assert splits_in(asked) == {"heldout"}
