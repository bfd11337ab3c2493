"""No question fails on any world: empty splits, empty samples, dead features, one unit; and what it says adds up."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from saeinterp_mcp.errors import SaeInterpError
from saeinterp_mcp.operations.decoder_influence import decoder_influence
from saeinterp_mcp.operations.family_heatmap import draw_heatmap, family_heatmap
from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.feature_examples import feature_examples
from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.features_search import features_search
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.match_patterns import match_patterns
from saeinterp_mcp.operations.similar_features import similar_features
from saeinterp_mcp.operations.stability import stability
from saeinterp_mcp.operations.store_status import store_status
from saeinterp_mcp.operations.test_rule import test_rule
from saeinterp_mcp.operations.token_influence import token_influence
from saeinterp_mcp.operations.token_interactions import token_interactions
from saeinterp_mcp.rules import TokenCondition
from saeinterp_mcp.store.manifest import SPLITS, Split
from saeinterp_mcp.store.memory_store import World, memory_store
from saeinterp_mcp.store.served import ServedStores
from tests.worlds import builds, has_rows, worlds


@pytest.fixture(autouse=True, scope="module")
def by_words_only() -> Iterator[None]:
    """No text model is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEINTERP_EMBEDDER", "none")
        yield


def answer(question: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """The answer as JSON values, or None for a refusal with a message."""
    try:
        found = question(*arguments, **named)
    except SaeInterpError:
        return None
    # NaN and infinity are refused
    return json.loads(json.dumps(found.model_dump(mode="python"), allow_nan=False))


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(world=worlds(), data=st.data())
def test_every_question_is_answered_or_refused_with_a_reason(world: World, data: st.DataObject) -> None:
    assume(has_rows(world))
    store = memory_store(world)
    feature = data.draw(st.integers(0, world.n_features - 1))
    split: Split = data.draw(st.sampled_from(SPLITS))
    min_n = data.draw(st.sampled_from([1, 20]))
    where = data.draw(st.sampled_from([None, "activation>0", "activation=0", "not activation>=0"]))
    scope = data.draw(st.sampled_from(["at", "before", "sample"])) if store.is_sequence else "at"
    rows: dict[str, Any] = {"where": where, "split": split, "scope": scope}
    answer(store_status, ServedStores([store]))
    answer(features_search, store, split=split)
    groups = answer(features_search, store, sort="max", thresholds=[1.0, 50.0], split=split)["groups"]
    assert sum(row[groups["columns"].index("n")] for row in groups["rows"]) == world.n_features
    for text in (None, 'the word "a", b', store.tokens[0] if store.tokens else "x"):
        view = answer(match_patterns, store, feature, text, split=split, where=where)
        assert view is None or 0 <= view["n_matches"] <= view["n_tested"]
        assert view is None or (view["match_rate"] is None) == (view["n_tested"] == 0)
    for token in store.tokens[:2]:
        answer(features_search, store, query=token, split=split)
    overview = answer(feature_overview, store, feature, **rows)
    assert overview is not None
    firing = overview["firing"]
    assert 0 <= firing["n_firing"] <= firing["n"] <= store.n_rows(split)
    if firing["n"]:
        assert (
            firing["rate_low"] is None or firing["rate_low"] <= firing["firing_rate"] <= firing["rate_high"]
        )
    for pick in ("top", "spread", "core", "near_miss", "silent"):
        answer(feature_examples, store, feature, pick=pick, **rows)
    answer(similar_features, store, feature, **rows)
    answer(decoder_influence, store, feature)
    for by, region in (("token", "all"), ("token", "core"), ("family", "all")):
        influence = answer(token_influence, store, feature, by=by, region=region, min_n=min_n, **rows)
        for row in influence["rows"] if influence else []:
            cell = dict(zip(influence["columns"], row, strict=True))
            assert cell["role"] is not None or cell["reason"] is not None
    for method in ("pairs", "itemsets", "minimal_cores", "within_family"):
        for named in ({}, {"tokens": store.tokens[:2], "families": list(store.families)}):
            answer(token_interactions, store, feature, method=method, min_n=min_n, **named, **rows)
    for method in ("split_half", "shuffle_null"):
        answer(stability, store, feature, method, draws=19, **rows)
    for tested in ("explain", "heldout"):
        rule = data.draw(
            st.sampled_from(["activation>0", *(TokenCondition(t).canonical() for t in store.tokens)])
        )
        scored = answer(test_rule, store, feature, rule, min_n=min_n, **{**rows, "split": tested})
        if scored is not None:
            assert scored["tp"] + scored["fp"] + scored["tn"] + scored["fn"] == scored["n"]
            assert scored["low"] is None or scored["low"] <= scored["balanced_accuracy"] <= scored["high"]
    for group in store.groups:
        swept = answer(group_sweep, store, feature, group, min_n=min_n, limit=200, **rows)
        assert sum(row[1] for row in swept["rows"]) == firing["n"]
        assert sum(row[3] for row in swept["rows"]) == firing["n_firing"]
    for family in store.families:
        swept = answer(family_sweep, store, feature, family, min_n=min_n, **rows)
        assert swept["baseline"]["n"] + sum(row[1] for row in swept["rows"]) == firing["n"]
        for row in swept["rows"]:
            cell = dict(zip(swept["columns"], row, strict=True))
            if cell["ci_low"] is not None:
                assert cell["ci_low"] <= cell["mean"] * (1 + 1e-5)
                assert cell["mean"] <= cell["ci_high"] * (1 + 1e-5)
            assert cell["reason"] is not None or cell["effect"] is not None
    names = list(store.families)
    if len(names) > 1:
        answer(family_heatmap, store, feature, names[0], names[1], min_n=min_n, **rows)


def test_a_heatmap_without_any_estimate_can_be_drawn() -> None:
    heatmap = family_heatmap(memory_store(builds()), 0, "swim", "ninja")
    assert heatmap.peak is None
    assert draw_heatmap(heatmap).startswith(b"\x89PNG")
