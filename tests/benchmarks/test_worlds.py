"""The synthetic worlds are what they say they are: seeded, heavy-tailed, dependent where planted."""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.storage.samples import n_families, n_values, samples_of_part
from benchmarks.storage.worlds import (
    DOCUMENT_TOKENS,
    SEQUENCE_WORLD,
    SET_WORLD,
    WORLDS,
    World,
    firing_rates,
    planted,
)
from benchmarks.storage.write_world import need_disk, write_world
from saeinterp_mcp.errors import BadInput

BUILDS = SET_WORLD.model_copy(update={"n_features": 300, "mean_firing": 8.0, "scale": 0.08})
DOCUMENTS = SEQUENCE_WORLD.model_copy(update={"n_features": 300, "mean_firing": 8.0, "scale": 0.04})


@pytest.fixture(scope="module", params=[BUILDS, DOCUMENTS], ids=["set", "sequence"])
def drawn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    world: World = request.param
    folder = tmp_path_factory.mktemp("worlds") / "one"
    write_world(world, folder)
    return world, folder


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def activations(folder: Path) -> pl.DataFrame:
    return pl.read_parquet(folder / "activations" / "*.parquet")


def row_of(world: World, frame: pl.DataFrame) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    sample = frame["sample"].to_numpy().astype(np.int64)
    return sample if world.kind == "set" else sample * DOCUMENT_TOKENS + frame["position"].to_numpy()


def test_one_seed_gives_the_same_bytes_over_any_number_of_workers(
    drawn: tuple[World, Path], tmp_path: Path
) -> None:
    world, folder = drawn
    assert world.n_parts > 1
    n = write_world(world, tmp_path / "again", workers=2)
    assert hashes(tmp_path / "again") == hashes(folder)
    assert n == len(activations(folder))


def test_another_seed_gives_other_activations(drawn: tuple[World, Path], tmp_path: Path) -> None:
    world, folder = drawn
    write_world(world.model_copy(update={"seed": 1}), tmp_path / "other")
    assert not activations(tmp_path / "other").equals(activations(folder))


@pytest.mark.parametrize(
    ("name", "quantiles"),
    [("S1", [2_100, 33_000, 231_000, 394_000]), ("S2", [700, 12_000, 97_000, 534_000])],
)
def test_densities_are_those_of_the_reference(name: str, quantiles: list[int]) -> None:
    world = WORLDS[name]
    expected = firing_rates(world) * world.n_rows
    assert (expected == 0).mean() == pytest.approx(0.03, abs=0.001)
    assert expected.sum() == pytest.approx(world.n_rows * world.mean_firing, rel=1e-3)
    assert np.quantile(expected, [0.5, 0.9, 0.99, 1.0]) == pytest.approx(quantiles, rel=0.1)


def test_the_third_world_is_the_second_ten_times() -> None:
    s2, s3 = WORLDS["S2"], WORLDS["S3"]
    assert s3.n_rows == 10 * s2.n_rows
    assert np.sort(firing_rates(s3)) == pytest.approx(np.sort(firing_rates(s2)))
    assert s3.expected_activations == 1_000_000_000


def test_features_fire_as_often_as_they_should_and_each_cell_once(drawn: tuple[World, Path]) -> None:
    world, folder = drawn
    frame = activations(folder)
    keys = row_of(world, frame) * world.n_features + frame["feature"].to_numpy()
    assert len(np.unique(keys)) == len(keys)
    counts = np.bincount(frame["feature"].to_numpy(), minlength=world.n_features)
    expected = firing_rates(world) * world.n_rows
    free = np.setdiff1d(
        np.arange(world.n_features), planted(world, n_families(world), n_values(world)).features
    )
    assert (counts[expected == 0] == 0).all()
    dense = free[expected[free] > 2000]
    assert len(dense) > 20
    assert counts[dense] == pytest.approx(expected[dense], rel=0.25)
    assert counts[free].sum() == pytest.approx(expected[free].sum(), rel=0.03)


def test_values_are_log_normal(drawn: tuple[World, Path]) -> None:
    logs = np.log(activations(drawn[1])["value"].to_numpy())
    assert np.isfinite(logs).all()
    centred = logs - np.median(logs)
    assert abs((centred**3).mean()) / logs.std() ** 3 < 0.35
    assert 0.7 < logs.std() < 1.1


def test_planted_features_follow_their_family(drawn: tuple[World, Path]) -> None:
    world, folder = drawn
    chosen = planted(world, n_families(world), n_values(world))
    parts = [samples_of_part(world, i) for i in range(world.n_parts)]
    frame = activations(folder)
    expected = firing_rates(world)[chosen.features] * world.n_rows
    at = int(np.argmax(np.where(chosen.by_family, expected, 0)))
    codes = np.concatenate([part.levels[chosen.which[at]] for part in parts])
    fires = np.zeros(world.n_rows, bool)
    fires[row_of(world, frame.filter(pl.col("feature") == chosen.features[at]))] = True
    low, high = fires[codes == 1].mean(), fires[codes >= 4].mean()
    assert high > 1.3 * low > 0


def test_features_come_in_bursts_in_documents(tmp_path: Path) -> None:
    write_world(DOCUMENTS, tmp_path / "world")
    frame = activations(tmp_path / "world")
    rates = firing_rates(DOCUMENTS)
    rare = np.flatnonzero((rates > 0.001) & (rates < 0.01))
    rare = np.setdiff1d(rare, planted(DOCUMENTS, 1, 20).features)
    counts = np.zeros((DOCUMENTS.n_features, DOCUMENTS.n_samples))
    np.add.at(counts, (frame["feature"].to_numpy(), frame["sample"].to_numpy()), 1)
    dispersion = counts[rare].var(1) / counts[rare].mean(1)
    assert np.median(dispersion) > 3, "1 would be a feature that does not mind the document"


def test_builds_have_ten_tokens_in_thermometers_and_share_units() -> None:
    part = samples_of_part(BUILDS, 0)
    assert part.lengths.mean() == pytest.approx(10.5, abs=0.2)
    sizes = np.bincount(part.units)
    assert 0.2 < (sizes > 1).mean() < 0.35
    codes = np.stack(part.levels, 1)
    owner = np.repeat(np.arange(len(part.lengths)), part.lengths)
    in_family = part.tokens < 9 * 14
    held = np.bincount(owner[in_family], minlength=len(part.lengths))
    assert (held == codes.sum(1)).all(), "level k comes with all levels below it"


def test_some_documents_have_two_samples() -> None:
    sizes = np.bincount(samples_of_part(DOCUMENTS, 0).units)
    assert set(sizes.tolist()) == {1, 2}
    assert 0.1 < (sizes == 2).mean() < 0.3


def test_a_world_that_does_not_fit_the_disk_is_not_begun(tmp_path: Path) -> None:
    far_too_large = WORLDS["S3"].model_copy(update={"scale": 1e6})
    with pytest.raises(BadInput, match=r"S3-1e\+06 needs about .* GiB in .*; name another --folder"):
        need_disk(tmp_path, far_too_large, "bundle", "store")
