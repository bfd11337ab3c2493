"""What a model is asked, whole, and what stands in it."""

import re

import pytest

from pipeline.explainers import EXPLAINERS
from pipeline.explainers.wording import filled
from tests.pipeline.explainers.world import CASES, CAT, ROLLER, SWIM, as_text, kept, request_of, store_of


@pytest.mark.parametrize(("explainer", "world", "feature"), CASES)
def test_a_request_is_worded_as_reviewed(explainer: str, world: str, feature: int) -> None:
    text = as_text(request_of(explainer, store_of(world), feature))
    assert text == kept(explainer, world).read_text(encoding="utf-8"), (
        "if this is meant, run `python -m tests.pipeline.explainers.world` and review the difference"
    )


def test_every_explainer_that_asks_is_among_the_reviewed_ones() -> None:
    assert {name for name, _, _ in CASES} == {n for n, e in EXPLAINERS.items() if e.needs_model}


def test_instructions_are_the_same_for_every_feature_of_a_store() -> None:
    store = store_of("outfits")
    asked = [request_of("contrastive", store, feature) for feature in (ROLLER, SWIM)]
    assert asked[0].system == asked[1].system
    assert asked[0].user != asked[1].user


def test_no_slot_is_left_open_and_what_stands_in_one_is_not_read_as_one() -> None:
    for explainer, world, feature in CASES:
        request = request_of(explainer, store_of(world), feature)
        assert "{" not in request.system + request.user
    assert filled("a {one} b {two}", one="{two}", two="{one}") == "a {two} b {one}"


def test_the_same_draw_is_the_same_question_and_another_seed_another() -> None:
    store, explainer = store_of("outfits"), EXPLAINERS["contrastive"]()
    first = explainer.request(store, SWIM, seed=0).key("m")
    assert first == EXPLAINERS["contrastive"]().request(store_of("outfits"), SWIM, seed=0).key("m")
    assert first != explainer.request(store, SWIM, seed=1).key("m")


def test_a_scale_is_the_effective_maximum_and_the_rate_that_of_the_explain_split() -> None:
    """By hand: swim_6 is in every other one of 144 sets; 56 of them are in the explain split, 28 at 4.0."""
    user = request_of("max_activating", store_of("outfits"), SWIM).user
    assert user.startswith(
        "The feature fires on 56 of the 98 samples of this part of the data set (57.1 %), in 56 of 98 independent "
        "units. 10 stands for an activation of 4, the 99.5th percentile where it fires."
    )


def test_statistics_are_on_in_sets_off_in_sequences_and_can_be_asked_for() -> None:
    def counted(world: str, feature: int, **options: bool) -> bool:
        request = EXPLAINERS["max_activating"].model_validate(options).request(store_of(world), feature, 0)
        return "Counted over all" in request.user

    assert counted("outfits", SWIM)
    assert not counted("outfits", SWIM, statistics=False)
    assert not counted("pets", CAT)
    assert not counted("pets", CAT, statistics=True)  # 56 tokens: nothing can be compared, so nothing is said


def test_statistics_are_those_of_the_explain_split() -> None:
    """By hand: swim_12 is in 28 of the 98 sets, all of which fire; of the other 70, 28 have swim_6."""
    user = request_of("max_activating", store_of("outfits"), SWIM).user
    # ink goes with weaker firing, because swim_12 is never beside it; ninja and the weapons with nothing
    assert re.findall(r'^\d+: (\S+ "\S+|\S+=\S+) fires on', user, re.MULTILINE) == [
        'token "swim_12":', 'token "swim_6":', 'token "ink":',
    ]  # fmt: skip
    assert 'token "swim_12": fires on 100 % of 28 with it, 40 % without; mean activation +3.2 with it' in user


def test_a_rule_s_language_names_the_store_s_own_families_and_groups() -> None:
    system = request_of("max_activating", store_of("outfits"), SWIM).system
    assert "Families here: swim (levels 6, 12)." in system
    assert "Groups and their attributes here: weapon, weapon.class." in system
    system = request_of("max_activating", store_of("pets"), CAT).system
    assert "Families here: animal (levels 1, 2)." in system
    assert "book" not in system  # excerpts of texts show no groups
