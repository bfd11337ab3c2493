"""The sums behind every table equal those of a loop over units, in any slice of any world."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from saeinterp_mcp.operations.slicing import Labels, Scoping, Slice
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import SPLITS
from saeinterp_mcp.store.memory_store import World, memory_store
from tests.operations.brute import arms, dense
from tests.worlds import has_rows, texts, worlds


def same(mine: Any, true: Any, k: int, what: str) -> None:
    for field in fields(type(true)):
        assert getattr(mine, field.name)[k] == pytest.approx(float(getattr(true, field.name)[0]), abs=1e-6), (
            f"{what} {field.name}"
        )


def check_label_set(part: Slice, label_set: str, value: Any, keep: Any) -> None:
    labels = Labels(part, label_set)
    moments = labels.moments()
    n_rows = part.store.n_rows(part.split)
    unit = np.asarray(part.store.row_unit[:n_rows])
    entry, label = labels.of_rows(np.arange(n_rows))
    has = np.zeros((n_rows, len(labels.names)), bool)
    has[entry, label] = True
    for k in range(len(labels.names)):
        reference = has[:, 0] if labels.reference == "level_0" else ~has[:, k]
        for i, column in enumerate((value, (value > 0).astype(float))):
            a, b, cross = arms(column, unit, has[:, k], reference, keep)
            same(moments[i].label, a, k, f"{label_set} label {k}")
            same(moments[i].reference, b, k, f"{label_set} reference of {k}")
            same(moments[i].cross, cross, k, f"{label_set} cross {k}")


def label_sets(store: Store) -> list[str]:
    sets = ["tokens"] if store.tokens else []
    sets += [f"{kind}.{f}" for f in store.families for kind in ("family", "presence")]
    return sets + [f"group.{g}" for g in store.groups]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(world=worlds(), data=st.data())
def test_sums_by_label_equal_a_loop_over_units(world: World, data: st.DataObject) -> None:
    assume(has_rows(world))
    store = memory_store(world)
    split = data.draw(st.sampled_from(SPLITS))
    n_rows = store.n_rows(split)
    assume(n_rows > 0)
    masked = data.draw(st.booleans())
    keep = (
        np.array(data.draw(st.lists(st.booleans(), min_size=n_rows, max_size=n_rows)))
        if masked
        else np.ones(n_rows, bool)
    )
    scopes = ["at", "before", "sample"] if store.is_sequence else ["at"]
    scoping = Scoping(data.draw(st.sampled_from(scopes)), window=2)
    for feature in range(world.n_features):
        part = Slice(store, feature, split, scoping, keep if masked else None)
        value = dense(store, feature, split)
        for label_set in label_sets(store):
            check_label_set(part, label_set, value, keep)


@pytest.mark.parametrize("scope", ["at", "before", "sample"])
def test_scopes_see_the_tokens_they_say(scope: str) -> None:
    world = texts()
    store = memory_store(world)
    window = 3
    part = Slice(store, 0, "all", Scoping(scope, window), None)  # type: ignore[arg-type]
    rows = np.arange(store.n_rows("all"))
    _, code = Labels(part, "family.digits").of_rows(rows)
    entry, token = Labels(part, "tokens").of_rows(rows)
    source = store.backend.column("samples/source")
    for row in range(0, store.n_rows("all"), 7):
        tokens = world.samples[int(source[store.row_sample[row]])].tokens
        p = int(store.row_position[row])
        seen = {"at": tokens[p : p + 1], "before": tokens[max(1, p - window) : p], "sample": tokens[1:]}[
            scope
        ]
        assert code[row] == max(({"1": 1, "22": 2}.get(t, 0) for t in seen), default=0)
        assert sorted(store.tokens[t] for t in token[entry == row]) == sorted(set(seen))
