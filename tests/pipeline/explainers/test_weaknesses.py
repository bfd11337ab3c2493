"""What the seed showed its explainer, and got wrong; numbers are those of its list of weak points."""

import math
import re
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from pipeline.explainers import EXPLAINERS
from pipeline.explainers.max_activating import MaxActivating
from saeinterp_mcp.config import shipped_folder
from saeinterp_mcp.errors import NotInStore, UnknownName
from saeinterp_mcp.store.memory_store import World, WorldSample, memory_store
from tests.pipeline.explainers.world import (
    CAT,
    DEAD,
    EVERYWHERE,
    NEVER,
    ONCE,
    ONLY_HELDOUT,
    SWIM,
    outfits,
    pets,
    request_of,
    store_of,
)
from tests.worlds import texts


class Shown(NamedTuple):
    """An excerpt as a reader of the request understands it."""

    before: str
    marked: str
    after: str
    fires: list[tuple[str, int]]


def firing_shown(user: str) -> list[Shown]:
    """The excerpts where it fires, read back from the text alone."""
    block = re.search(r"where it fires \(\d+\):\n<excerpts>\n(.*?)\n</excerpts>", user, re.DOTALL)
    assert block is not None
    found = []
    for text, values in re.findall(r"^\d+: (.*)\nactivations: (.*)$", block[1], re.MULTILINE):
        before, marked, after = re.fullmatch(r"(.*)<<(.*)>>(.*)", text).groups()  # type: ignore[union-attr]
        pairs = [(token, int(n)) for token, n in re.findall(r'\("(.*?)", (\d+)\)', values)]
        found.append(Shown(before, marked, after, pairs))
    return found


def silent_shown(user: str) -> list[str]:
    block = re.search(r"silent throughout [^\n]*:\n<excerpts>\n(.*?)\n</excerpts>", user, re.DOTALL)
    assert block is not None
    return re.findall(r"^\d+: (.*)$", block[1], re.MULTILINE)


def spelled(text: str) -> str:
    """Without the spelling that keeps marks apart from the corpus."""
    return text.replace("‹", "<").replace("›", ">")


def test_1_the_marked_token_is_the_firing_one_and_values_are_the_true_ones() -> None:
    """The second way: the world as written down, 10 being 8.0, rounded up."""
    shown = firing_shown(request_of("max_activating", store_of("pets"), CAT).user)
    assert [(s.before + s.marked + s.after, s.fires) for s in shown] == [
        (" the cat sat on a mat", [(" cat", 10)]),  # 8.0 of d0; that of d8, 3.0, shows the same text
        (" cat naps all day", [(" cat", 8)]),  # 6.0
        (" a dog saw a cat", [(" cat", 5)]),  # 4.0
        (" the cat and the cat", [(" cat", 3), (" cat", 2)]),  # 2.0 and 0.9
    ]
    assert all(s.marked == " cat" for s in shown)


@pytest.mark.parametrize("feature", [0, 1, 2])
def test_1_and_2_in_a_larger_world_every_number_is_that_of_the_token_and_nothing_silent_has_one(
    feature: int,
) -> None:
    world = texts()
    store = memory_store(world)
    values = store.activations(feature, "explain").values
    top = float(np.percentile(values, 99.5, method="linear"))
    user = MaxActivating(before=50, after=50).request(store, feature, seed=3).user
    # whole samples are shown, so that each can be found again
    steps_of = {}
    for i, sample in enumerate(world.samples):
        activations = [world.activations.get((feature, i, p), 0.0) for p in range(1, len(sample.tokens))]
        steps_of["".join(sample.tokens[1:])] = [math.ceil(10 * min(1, a / top)) for a in activations if a]
    shown = firing_shown(user)
    assert len(shown) == 16
    for s in shown:
        assert [n for _, n in s.fires] == steps_of[spelled(s.before + s.marked + s.after)]
        assert spelled(s.marked) in [spelled(token) for token, _ in s.fires]


def test_2_hard_negatives_are_silent_from_end_to_end() -> None:
    store = store_of("pets")
    for feature in (CAT, ONCE):
        user = request_of("contrastive", store, feature).user
        word = {CAT: "cat", ONCE: "shone"}[feature]
        assert silent_shown(user)
        assert all(word not in text.split() for text in silent_shown(user))


def test_3_the_first_and_the_last_counted_token_are_shown_and_bos_is_not() -> None:
    request = request_of("max_activating", store_of("pets"), CAT)
    shown = firing_shown(request.user)
    assert any(s.before == "" and s.marked == " cat" for s in shown)
    assert any(s.after == "" and s.marked == " cat" for s in shown)
    assert "<bos>" not in request.user


def test_4_nothing_is_shown_twice() -> None:
    user = request_of("contrastive", store_of("pets"), CAT).user
    texts_shown = [s.before + s.marked + s.after for s in firing_shown(user)]
    assert len(set(texts_shown)) == len(texts_shown) == 4  # d8 says what d0 says
    assert len(set(silent_shown(user))) == len(silent_shown(user))


def test_4_nor_in_two_kinds_of_silent_excerpts() -> None:
    """With brushes SWIM is silent on swim_6 too: there are near misses, and others of the same content."""
    world = outfits()
    brush = {i for i, s in enumerate(world.samples) if s.groups["weapon"] == "brush"}
    gated = {at: v for at, v in world.activations.items() if not (at[0] == SWIM and at[1] in brush)}
    user = request_of("contrastive", memory_store(replace(world, activations=gated)), SWIM).user
    assert "4 with the tokens that go most with its firing" in user
    assert len(set(silent_shown(user))) == len(silent_shown(user))


def test_6_no_domain_is_in_the_wording() -> None:
    for path in (shipped_folder("prompts") / "explain").glob("*.md"):
        words = path.read_text(encoding="utf-8").lower()
        assert not re.search(r"financ|stock|market|news|linguist|language model", words), path.name


def test_7_a_dead_feature_an_unclear_one_and_a_failure_are_three_things() -> None:
    for name in EXPLAINERS:
        if name == "output_side":
            continue
        explainer = EXPLAINERS[name]()
        ask = explainer.request if explainer.needs_model else explainer.explain
        for store, feature in ((store_of("pets"), DEAD), (store_of("outfits"), NEVER)):
            with pytest.raises(NotInStore, match=f"^feature {feature} never fires in the explain split"):
                ask(store, feature, 0)


@pytest.mark.parametrize("name", list(EXPLAINERS))
def test_a_feature_that_fires_on_heldout_units_alone_is_not_explained(name: str) -> None:
    explainer = EXPLAINERS[name]()
    ask = explainer.request if explainer.needs_model else explainer.explain
    with pytest.raises(NotInStore, match="never fires in the explain split"):
        ask(store_of("pets"), ONLY_HELDOUT, 0)
    with pytest.raises(UnknownName, match="feature 6 is not in store 'pets'"):
        ask(store_of("pets"), 6, 0)


def test_8_scale_and_density_are_told_and_the_mark_is_never_cut_away() -> None:
    world = pets()
    long = tuple(f" {'x' * 3000}{i}" for i in range(40))
    unit = next(s for s in world.samples if s.unit == "d0")
    samples = tuple(
        WorldSample((*s.tokens[:1], *long, *s.tokens[1:], *long), s.unit, s.groups) if s is unit else s
        for s in world.samples
    )
    moved = {
        (f, i, p + 40 if samples[i].unit == "d0" and p else p): value
        for (f, i, p), value in world.activations.items()
    }
    store = memory_store(World(**{**vars(world), "samples": samples, "activations": moved}))
    user = EXPLAINERS["max_activating"]().request(store, CAT, 0).user
    assert len(firing_shown(user)) == 5  # d8 differs from d0 now
    assert firing_shown(user)[0].marked == " cat"
    assert firing_shown(user)[0].fires == [(" cat", 10)]
    assert re.search(r"fires on 6 of the \d+ tokens .* 10 stands for an activation of 8", user)
    # 9: the last instruction is there however long the material is, and the material is bounded
    assert user.endswith("Answer with the JSON object.")
    assert len(user) < 12_000


@pytest.mark.parametrize("name", ["max_activating", "contrastive"])
def test_one_firing_is_shown_and_said_to_be_one(name: str) -> None:
    user = request_of(name, store_of("pets"), ONCE).user
    assert user.startswith(
        "The feature fires on 1 of the 56 tokens of this part of the data set (1.79 %), in 1 of 11"
    )
    assert [s.before + s.marked + s.after for s in firing_shown(user)] == [" all day the sun shone"]
    assert firing_shown(user)[0].fires == [(" sun", 10)]


def test_a_feature_that_is_never_silent_cannot_be_contrasted() -> None:
    store = store_of("pets")
    with pytest.raises(NotInStore) as refused:
        request_of("contrastive", store, EVERYWHERE)
    assert str(refused.value) == (
        "feature 4 of store 'pets' is silent in no excerpt of the explain split, so there is nothing to hold its "
        "firing against; explain it with max_activating"
    )
    assert len(firing_shown(request_of("max_activating", store, EVERYWHERE).user)) == 10  # d0 and d8 are one
