"""The worlds of RecoverBench hold what their truths say, and tell nothing else."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from benchmarks.recover.firing import FeatureLaw, chances, draw_activations
from benchmarks.recover.rows import Family, Group, Rows, Schema
from benchmarks.recover.truth import NULL, STRATA, InGroup, Structure, Term, Truth
from benchmarks.recover.worlds import WorldKind, draw_law, truth_path, write_world
from pipeline.importers.run_import import import_bundle
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.operations.slicing import make_slice
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store
from tests.worlds import Quiet

UNITS: dict[WorldKind, int] = {"set": 1500, "sequence": 300}


@pytest.fixture(scope="module", params=["set", "sequence"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, list[Truth], Path]:
    folder = tmp_path_factory.mktemp("recover")
    truths = write_world(folder / "bundle", request.param, 3, UNITS[request.param], features_per_stratum=2)
    import_bundle(folder / "bundle", folder / "store", progress=Quiet())
    return open_store(folder / "store"), truths, folder


def firing(store: Store, feature: int) -> NDArray[np.float32]:
    rows, values = store.activations(feature, "all")
    dense = np.zeros(store.n_rows("all"), np.float32)
    dense[rows] = values
    return dense


def where(store: Store, rule: str) -> NDArray[np.bool_]:
    mask = make_slice(store, 0, "all", rule).mask
    assert mask is not None
    return mask


def of(truths: list[Truth], stratum: str) -> list[Truth]:
    return [t for t in truths if t.stratum == stratum]


def rates(store: Store, truth: Truth) -> tuple[float, float]:
    assert truth.structure is not None
    fires, on = firing(store, truth.feature) > 0, where(store, truth.structure.rule)
    return float(fires[on].mean()), float(fires[~on].mean())


def test_every_stratum_is_there_twice(world: tuple[Store, list[Truth], Path]) -> None:
    store, truths, _ = world
    assert sorted(t.stratum for t in truths) == sorted(2 * STRATA)
    assert [t.feature for t in truths] == list(range(store.manifest.n_features))
    assert [t.stratum for t in truths] != sorted([t.stratum for t in truths], key=STRATA.index)


@pytest.mark.parametrize(
    "stratum",
    [
        "level_threshold",
        "or",
        "and",
        "xor",
        "gated",
        "group_only",
        "attribute_only",
        "confounded",
        "tail_stimulus",
    ],
)
def test_a_feature_fires_where_its_rule_holds_and_hardly_elsewhere(
    world: tuple[Store, list[Truth], Path], stratum: str
) -> None:
    store, truths, _ = world
    for truth in of(truths, stratum):
        on, off = rates(store, truth)
        assert 0.75 < on < 1, truth
        assert off < 0.03, truth


def test_a_suppressed_feature_fires_more_seldom_or_more_weakly_with_the_term(
    world: tuple[Store, list[Truth], Path],
) -> None:
    store, truths, _ = world
    for truth in of(truths, "suppressor_rate"):
        on, off = rates(store, truth)
        assert off < 0.3 * on, "the rule is `not (term)`"
    for truth in of(truths, "suppressor_strength"):
        assert truth.structure is not None
        value, free = firing(store, truth.feature), where(store, truth.structure.rule)
        assert rates(store, truth) == pytest.approx([(value > 0).mean()] * 2, abs=0.09)
        assert value[~free & (value > 0)].mean() < 0.6 * value[free & (value > 0)].mean()


def test_strength_grows_from_level_to_level_of_a_dose(world: tuple[Store, list[Truth], Path]) -> None:
    store, truths, _ = world
    for truth in of(truths, "dose_response"):
        assert truth.structure is not None
        family = truth.structure.terms[0].family
        value = firing(store, truth.feature)
        levels = store.family(family).levels
        assert truth.structure.terms[0].threshold == levels[0]
        means = [value[where(store, f"family:{family}={level}")].mean() for level in levels]
        assert means == sorted(means)
        assert means[-1] > 2.5 * means[0]


def test_the_tail_is_where_the_tail_term_is(world: tuple[Store, list[Truth], Path]) -> None:
    store, truths, _ = world
    for truth in of(truths, "tail_stimulus"):
        assert truth.structure is not None
        assert truth.structure.tail is not None
        value, held = firing(store, truth.feature), where(store, truth.structure.tail.rule)
        top = value >= np.quantile(value[value > 0], 0.98)
        assert held[top].mean() > 0.9
        assert (value[held] > 0).mean() < 0.5, "the tail term alone makes nothing fire"


def test_a_parent_is_silent_where_its_child_fires(world: tuple[Store, list[Truth], Path]) -> None:
    store, truths, _ = world
    parent, child = sorted(
        of(truths, "absorbed_child"), key=lambda t: len(t.structure.terms) if t.structure else 0
    )
    assert parent.structure is not None
    assert child.structure is not None
    assert set(parent.structure.terms) < set(child.structure.terms)
    both = where(store, child.structure.rule)
    assert (firing(store, parent.feature)[both] > 0).mean() < 0.05
    assert (firing(store, child.feature)[both] > 0).mean() > 0.75


def test_twins_share_a_rule_and_no_unit(world: tuple[Store, list[Truth], Path]) -> None:
    store, truths, _ = world
    first, second = of(truths, "split_twin")
    assert first.structure == second.structure
    assert first.structure is not None
    on = where(store, first.structure.rule)
    a, b = (firing(store, t.feature)[on] > 0 for t in (first, second))
    assert (a | b).mean() > 0.8
    assert (a & b).mean() < 0.03


def test_dead_dense_and_noise_have_nothing_to_claim(world: tuple[Store, list[Truth], Path]) -> None:
    store, truths, _ = world
    for truth in truths:
        rate = (firing(store, truth.feature) > 0).mean()
        if truth.stratum in (*NULL, "dense"):
            assert truth.structure is None
        low, high = {"dead": (0, 0), "dense": (0.55, 0.97), "noise": (0.01, 0.15)}.get(
            truth.stratum, (0.01, 0.6)
        )
        assert low <= rate <= high, truth


def test_the_bundle_tells_no_rule(world: tuple[Store, list[Truth], Path]) -> None:
    _, truths, folder = world
    inside = " ".join(p.name for p in (folder / "bundle").rglob("*"))
    config = (folder / "bundle" / "bundle.yaml").read_text(encoding="utf-8")
    samples = pl.read_parquet(folder / "bundle" / "samples.parquet")
    tokens = " ".join(samples["tokens"].explode().unique().drop_nulls().to_list())
    for word in (*STRATA, "truth", "rule", "driver"):
        assert word not in inside
        if word not in ("or", "and", "dead"):
            assert word not in config + tokens
    kept = json.loads(truth_path(folder / "bundle").read_text(encoding="utf-8"))
    assert [Truth.model_validate(t) for t in kept] == truths


def test_a_level_of_a_cumulative_family_brings_the_tokens_of_those_below_it(tmp_path: Path) -> None:
    write_world(tmp_path / "bundle", "set", 4, n_units=300, features_per_stratum=1)
    samples = [set(t) for t in pl.read_parquet(tmp_path / "bundle" / "samples.parquet")["tokens"].to_list()]
    families = draw_law("set", 4, features_per_stratum=1).rows.schema.families
    assert {f.encoding for f in families} == {"cumulative", "exclusive"}
    for family in families:
        tokens = [family.token(level) for level in family.levels]
        held = [[token in sample for token in tokens] for sample in samples]
        assert any(held[i][-1] for i in range(len(held)))
        for row in held:
            assert row == sorted(row, reverse=True) if family.encoding == "cumulative" else sum(row) <= 1


def test_one_seed_gives_one_world_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_world(tmp_path / name, "set", seed, n_units=200, features_per_stratum=1)
    files = ("samples.parquet", "activations.parquet", "bundle.yaml")
    a, b, c = ([(tmp_path / name / f).read_bytes() for f in files] for name in "abc")
    assert a == b
    assert a[0] != c[0]
    assert a[1] != c[1]


def small_rows(n: int) -> Rows:
    """Rows i of unit i // 3: f01 at level i % 3 of (0, 2, 5), f02 where i % 2, g = i % 4."""
    schema = Schema(
        families=(
            Family(name="f01", encoding="exclusive", levels=(2, 5)),
            Family(name="f02", encoding="exclusive", levels=(1,)),
        ),
        groups=(Group(name="g", values=tuple("abcd"), attributes={"a1": ("x", "y", "x", "y")}),),
        fillers=(),
    )
    i = np.arange(n)
    levels = np.stack([np.array([0, 2, 5])[i % 3], i % 2], 1).astype(np.int16)
    return Rows(schema, i // 3, levels, {"g": i % 4}, np.zeros((n, 0), bool), np.zeros(n), i, 0 * i)


@pytest.mark.parametrize(
    ("structure", "on"),
    [
        (Structure(terms=(Term(family="f01", threshold=5),)), [2, 5, 8, 11]),
        (
            Structure(terms=(Term(family="f01", threshold=2), Term(family="f02")), combine="and"),
            [1, 5, 7, 11],
        ),
        (
            Structure(terms=(Term(family="f01", threshold=2), Term(family="f02")), combine="xor"),
            [2, 3, 4, 8, 9, 10],
        ),
        (
            Structure(terms=(Term(family="f01", threshold=5),), gate=InGroup(by="g.a1", value="x")),
            [2, 8],
        ),
        (Structure(group=InGroup(by="g", value="d")), [3, 7, 11]),
        (Structure(polarity="decreases", group=InGroup(by="g.a1", value="y")), [0, 2, 4, 6, 8, 10]),
    ],
)
def test_chances_are_high_exactly_where_the_rule_holds(structure: Structure, on: list[int]) -> None:
    law = FeatureLaw(stratum="or", structure=structure, rate=0.9, other_rate=0.01)
    assert np.flatnonzero(chances(law, small_rows(12)).rate > 0.5).tolist() == on


def test_a_dose_rises_in_equal_steps() -> None:
    law = FeatureLaw(
        stratum="dose_response",
        structure=Structure(terms=(Term(family="f01", threshold=2),), dose=True),
        rate=0.8,
        strength=2,
        dose_strength=4,
        dose_rate=0.5,
    )
    found = chances(law, small_rows(3))
    assert found.rate.tolist() == pytest.approx([0, 0.4, 0.8])
    assert found.strength.tolist() == pytest.approx([1.2, 2, 8])


def test_what_is_drawn_has_the_expectation_in_closed_form() -> None:
    law = FeatureLaw(
        stratum="level_threshold",
        structure=Structure(terms=(Term(family="f01", threshold=5),)),
        rate=0.9,
        other_rate=0.05,
        strength=3,
        sigma=0.6,
        shared_firing=0.4,
        shared_strength=0.5,
    )
    rows = small_rows(60_000)
    fires, values = draw_activations(law, rows, rng(0, "test"))
    dense = np.zeros(len(rows))
    dense[fires] = values
    on = rows.levels[:, 0] == 5
    # se: about .005 for 20,000 rows of which three share a unit
    assert (dense[on] > 0).mean() == pytest.approx(0.9, abs=0.01)
    assert (dense[~on] > 0).mean() == pytest.approx(0.05, abs=0.006)
    assert dense[on].mean() == pytest.approx(0.9 * 3, rel=0.02)
    assert dense[~on].mean() == pytest.approx(0.05 * 3 * 0.6, rel=0.06)


@pytest.mark.parametrize("kind", ["set", "sequence"])
def test_the_bystander_of_a_confounded_feature_goes_with_its_driver(kind: WorldKind) -> None:
    law = draw_law(kind, 1, features_per_stratum=1)
    rows = law.rows.draw(3000, rng(9, "test"))
    for first, second in law.rows.pairs:
        a, b = (rows.levels[:, rows.schema.index(f)].astype(float) for f in (first, second))
        others = [f.name for f in rows.schema.families if f.name not in (first, second)]
        beside = [abs(np.corrcoef(a, rows.levels[:, rows.schema.index(f)])[0, 1]) for f in others]
        assert np.corrcoef(a, b)[0, 1] > max(0.35, *beside)
