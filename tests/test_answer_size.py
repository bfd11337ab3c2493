"""Answers are sized for an agent: p95 of a concise one is under 1,500 tokens (a token: 3.5 bytes of JSON)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.labels.database import LabelsInMemory
from saeinterp_mcp.operations.decoder_influence import decoder_influence
from saeinterp_mcp.operations.family_heatmap import family_heatmap
from saeinterp_mcp.operations.family_sweep import family_sweep
from saeinterp_mcp.operations.feature_examples import feature_examples
from saeinterp_mcp.operations.feature_overview import feature_overview
from saeinterp_mcp.operations.features_search import features_search
from saeinterp_mcp.operations.group_sweep import group_sweep
from saeinterp_mcp.operations.label_get import label_get
from saeinterp_mcp.operations.label_save import label_save
from saeinterp_mcp.operations.match_patterns import match_patterns
from saeinterp_mcp.operations.note_get import note_get
from saeinterp_mcp.operations.note_save import note_save
from saeinterp_mcp.operations.queue_next import queue_next
from saeinterp_mcp.operations.similar_features import similar_features
from saeinterp_mcp.operations.stability import stability
from saeinterp_mcp.operations.store_status import store_status
from saeinterp_mcp.operations.test_rule import test_rule
from saeinterp_mcp.operations.token_influence import token_influence
from saeinterp_mcp.operations.token_interactions import token_interactions
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.served import ServedStores

CLAIMS = (
    'the token "self." before an attribute, names of methods, and arguments of functions that are called; often in '
    "classes, sometimes in tests, docstrings about parameters, e.g. their types, or comments"
)
QUESTIONS: dict[str, Callable[[Store, int], Any]] = {
    "feature_overview": lambda store, f: feature_overview(store, f),
    "feature_examples": lambda store, f: feature_examples(store, f),
    "family_sweep": lambda store, f: family_sweep(store, f, "indentation"),
    "family_heatmap": lambda store, f: family_heatmap(store, f, "bracket_depth", "quote"),
    "group_sweep": lambda store, f: group_sweep(store, f, "module"),
    "decoder_influence": lambda store, f: decoder_influence(store, f),
    "similar_features": lambda store, f: similar_features(store, f),
    "features_search": lambda store, f: features_search(store, sort="firing_rate"),
    "token_influence": lambda store, f: token_influence(store, f),
    "token_interactions": lambda store, f: token_interactions(store, f, scope="before"),
    "test_rule": lambda store, f: test_rule(store, f, "family:digits and not kind=docs", split="explain"),
    "stability": lambda store, f: stability(store, f, "shuffle_null", draws=19),
    "match_patterns": lambda store, f: match_patterns(store, f, CLAIMS),
    "store_status": lambda store, f: store_status(ServedStores([store])),
}


@pytest.fixture(autouse=True, scope="module")
def by_words_only() -> Iterator[None]:
    """No text model is started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEINTERP_EMBEDDER", "none")
        yield


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_stay_small(question: str, pycode_store: Path) -> None:
    store = open_store(pycode_store)
    features = rng(0, "answer size").choice(store.manifest.n_features, 30, replace=False).tolist()
    sizes = [len(QUESTIONS[question](store, f).model_dump_json().encode()) / 3.5 for f in features]
    assert np.quantile(sizes, 0.95) < 1500


def test_answers_about_labels_and_notes_stay_small(pycode_store: Path) -> None:
    opened = open_store(pycode_store)
    store = Store(opened.backend, opened.name, LabelsInMemory())
    for feature in range(40):
        text = f"The name after a dot where the line began with self, in code of module {feature}"
        rule = "family:indentation>=2 and not kind=docs"
        label_save(
            store, feature // 4, text, rule, notes="One of several. " * 20, author="somebody", confidence=0.5
        )
        note_save(
            store,
            feature // 4,
            "observation",
            f"{text}: 0.42 [0.38, 0.46] against 0.05, n 1,200 in 80 units.",
        )
    answers = [
        label_get(store),
        label_get(store, 3),
        note_get(store),
        note_get(store, 3),
        queue_next(store),
        features_search(store, by="label"),
    ]
    sizes = {a.operation: len(a.model_dump_json().encode()) / 3.5 for a in answers}
    assert max(sizes.values()) < 1500, sizes
    with_and_without = [len(feature_overview(s, 3).model_dump_json()) / 3.5 for s in (store, opened)]
    assert with_and_without[0] - with_and_without[1] < 300
