"""Nearest features by decoder direction: exact, tie-safe, of every format, and nobody near a direction of zero."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from examples.validation.make_world import N_FEATURES, NO_DIRECTION, make_decoder, write_world
from pipeline.config import Execution
from pipeline.stage import Summary
from pipeline.validation.config import ValidationRun
from pipeline.validation.decoder_weights import n_features_of
from pipeline.validation.run import run_validation
from pipeline.validation.stages import decoder_similarities as module
from pipeline.validation.stages.decoder_similarities import DECODER_SIMILARITIES as STAGE
from pipeline.validation.stages.decoder_similarities import find_nearest
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.layout import NO_INDEX
from saeinterp_mcp.store.memory_store import World, WorldSample
from tests.pipeline.validation.test_run import Heard
from tests.worlds import import_world

Floats = NDArray[np.float32]


def run(config: Path, out: Path) -> Summary:
    out.mkdir(parents=True)
    section = STAGE.config_of(ValidationRun.load(config))
    STAGE.external(section)
    return STAGE.run(section, {}, out, lambda done, total: None, Execution())


def config_with(folder: Path, **keys: Any) -> Path:
    return write_world(folder, data_sources=[], feature_similarities=keys)


def document(out: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not strict JSON")

    text = (out / "feature_similarities.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


def arrays(out: Path) -> tuple[NDArray[np.uint32], Floats]:
    with np.load(out / "neighbours.npz", allow_pickle=False) as file:
        return file["features"], file["cosines"]


def brute_force(decoder: NDArray[Any], feature: int, k: int) -> list[tuple[int, float]]:
    """One pair at a time, in Python."""
    found = []
    for other in range(len(decoder)):
        a, b = decoder[feature].astype(float), decoder[other].astype(float)
        if other != feature and a.any() and b.any():
            cosine = sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5)
            found.append((other, cosine))
    return sorted(found, key=lambda one: (-round(one[1], 7), one[0]))[:k]


def test_each_feature_has_its_nearest_ones_in_the_seeds_shape(tmp_path: Path) -> None:
    summary = run(config_with(tmp_path / "world"), tmp_path / "out")
    found, decoder = document(tmp_path / "out"), make_decoder()
    assert (found["n_features"], found["statistics"]["top_k"]) == (N_FEATURES, 5)
    assert found["feature_range"] == {"start": 0, "end": N_FEATURES, "total_features": N_FEATURES}
    assert [one["source_feature_id"] for one in found["feature_mappings"]] == list(range(N_FEATURES))
    for one in found["feature_mappings"]:
        expected = brute_force(decoder, one["source_feature_id"], 5)
        listed = one["top_10_neighbors"]
        assert [entry["feature_id"] for entry in listed] == [other for other, _ in expected]
        assert [entry["cosine_similarity"] for entry in listed] == pytest.approx(
            [c for _, c in expected], abs=1e-6
        )
        assert [entry["rank"] for entry in listed] == list(range(1, len(listed) + 1))
    assert found["feature_mappings"][3]["top_10_neighbors"][0]["feature_id"] == 33  # planted: i and i + 30
    assert (summary.n_kept, sum(summary.dropped.values())) == (N_FEATURES - 1, 1)


def test_arrays_and_statistics_agree_with_the_document(tmp_path: Path) -> None:
    run(config_with(tmp_path / "world"), tmp_path / "out")
    features, cosines = arrays(tmp_path / "out")
    found = document(tmp_path / "out")
    assert features.shape == cosines.shape == (N_FEATURES, 5)
    assert (features.dtype.name, cosines.dtype.name) == ("uint32", "float32")
    for one in found["feature_mappings"]:
        n = len(one["top_10_neighbors"])
        row = features[one["source_feature_id"]]
        assert row[:n].tolist() == [entry["feature_id"] for entry in one["top_10_neighbors"]]
        assert (row[n:] == NO_INDEX).all()
    first = cosines[:, 0][~np.isnan(cosines[:, 0])].astype(float)
    statistics = found["statistics"]["top_1_only"]
    assert [statistics[name] for name in ("min", "max", "mean", "std")] == pytest.approx(
        [first.min(), first.max(), first.mean(), first.std()], abs=1e-6
    )


def test_a_direction_of_zero_is_near_nobody_and_told(tmp_path: Path) -> None:
    summary = run(config_with(tmp_path / "world"), tmp_path / "out")
    features, cosines = arrays(tmp_path / "out")
    assert (features[NO_DIRECTION] == NO_INDEX).all()
    assert np.isnan(cosines[NO_DIRECTION]).all()
    assert not (features == NO_DIRECTION).any()
    assert document(tmp_path / "out")["feature_mappings"][NO_DIRECTION]["top_10_neighbors"] == []
    assert summary.notes == ("1 features have no neighbours: they are without a direction, or in no list",)


def test_directions_are_kept_with_length_one(tmp_path: Path) -> None:
    run(config_with(tmp_path / "world"), tmp_path / "out")
    kept = np.load(tmp_path / "out" / "decoder.npy", mmap_mode="r", allow_pickle=False)
    lengths = np.linalg.norm(np.asarray(kept), axis=1)
    assert lengths == pytest.approx([float(i != NO_DIRECTION) for i in range(N_FEATURES)], abs=1e-6)


def test_equal_cosines_are_ordered_by_feature_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    one = np.zeros((40, 4), np.float32)
    one[:, 0] = 1
    one[7] = [0, 1, 0, 0]
    quiet = lambda done, total: None  # noqa: E731
    whole = find_nearest(one, 3, quiet)
    assert whole.features[0].tolist() == [1, 2, 3]
    assert whole.features[2].tolist() == [0, 1, 3]
    assert whole.features[7].tolist() == [0, 1, 2]
    monkeypatch.setattr(module, "CELLS", 130)
    blocks = find_nearest(one, 3, quiet)
    assert np.array_equal(whole.features, blocks.features)
    assert np.array_equal(whole.cosines, blocks.cosines)


def test_more_neighbours_than_features_and_one_feature_alone() -> None:
    quiet = lambda done, total: None  # noqa: E731
    assert find_nearest(np.eye(3, dtype=np.float32), 10, quiet).features.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert find_nearest(np.ones((1, 2), np.float32), 10, quiet).features.shape == (1, 0)


def test_a_cosine_of_zero_is_one_and_that_with_a_direction_of_zero_is_none() -> None:
    directions = np.eye(4, dtype=np.float32)
    directions[2] = 0
    found = find_nearest(directions, 3, lambda done, total: None)
    assert found.features.tolist() == [[1, 3, NO_INDEX], [0, 3, NO_INDEX], [NO_INDEX] * 3, [0, 1, NO_INDEX]]
    assert found.cosines[0].tolist()[:2] == [0.0, 0.0]
    assert np.isnan(found.cosines[2]).all()


def write_weights(folder: Path, kind: str, decoder: Floats) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    match kind:
        case "W_dec.npz":
            np.savez(folder / "w.npz", W_dec=decoder, W_enc=decoder.T)
        case "w_dec compressed.npz":
            np.savez_compressed(folder / "w.npz", w_dec=decoder, threshold=np.zeros(3))
        case "fortran.npz":
            np.savez(folder / "w.npz", W_dec=np.asfortranarray(decoder))
        case "float64.npy":
            np.save(folder / "w.npy", decoder.astype(np.float64), allow_pickle=False)
            return "w.npy"
        case "W_dec.safetensors":
            save_file({"W_dec": decoder, "b_dec": decoder[0].copy()}, folder / "w.safetensors")
            return "w.safetensors"
        case "decoder.weight.safetensors":
            save_file({"decoder.weight": np.ascontiguousarray(decoder.T)}, folder / "w.safetensors")
            return "w.safetensors"
        case "bfloat16.safetensors":
            raw = (decoder.view(np.uint32) >> 16).astype("<u2").tobytes()
            entry = {"W_dec": {"dtype": "BF16", "shape": list(decoder.shape), "data_offsets": [0, len(raw)]}}
            header = json.dumps(entry).encode()
            (folder / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + raw)
            return "w.safetensors"
    return "w.npz"


@pytest.mark.parametrize(
    "kind",
    [
        "W_dec.npz", "w_dec compressed.npz", "fortran.npz", "float64.npy", "W_dec.safetensors",
        "decoder.weight.safetensors", "bfloat16.safetensors",
    ],
)  # fmt: skip
def test_weights_of_every_maker_give_the_same(tmp_path: Path, kind: str) -> None:
    decoder = make_decoder()
    if kind.startswith("bfloat16"):
        decoder = (decoder.view(np.uint32) & 0xFFFF0000).view(np.float32)
    name = write_weights(tmp_path / "world", kind, decoder)
    assert n_features_of(tmp_path / "world" / name) == N_FEATURES
    run(config_with(tmp_path / "world", weights=name), tmp_path / "out")
    features, _ = arrays(tmp_path / "out")
    for feature in (0, 17, 59):
        assert features[feature].tolist() == [other for other, _ in brute_force(decoder, feature, 5)]


def test_weights_of_the_store_are_read_where_none_are_named(tmp_path: Path) -> None:
    decoder = make_decoder()
    world = World(
        "set", N_FEATURES, (WorldSample(("a",)), WorldSample(("b",))), {(0, 0, 0): 1.0}, decoder=decoder
    )
    store = import_world(world, tmp_path / "store")
    config = write_world(
        tmp_path / "world", data_sources=[], store=store, feature_similarities={"weights": None}
    )
    run(config, tmp_path / "out")
    run(config_with(tmp_path / "named"), tmp_path / "expected")
    for name in ("neighbours.npz", "decoder.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_weights_of_another_sae_than_the_stores_are_refused_before_anything_runs(tmp_path: Path) -> None:
    samples = (WorldSample(("a",)), WorldSample(("b",)))
    store = import_world(World("set", 12, samples, {(0, 0, 0): 1.0}), tmp_path / "store")
    config = write_world(tmp_path / "world", data_sources=[], store=store)
    heard = Heard()
    with pytest.raises(
        BadInput, match=r"decoder\.npy holds 60 features, and the store \S+ has 12: they are of"
    ):
        run_validation(config, progress=heard)
    assert heard.that_ran() == []


def test_a_file_made_before_is_used_as_it_is(tmp_path: Path) -> None:
    run(config_with(tmp_path / "world"), tmp_path / "made")
    (tmp_path / "world" / "given.json").write_bytes(
        (tmp_path / "made" / "feature_similarities.json").read_bytes()
    )
    run(config_with(tmp_path / "world", given="given.json", weights=None), tmp_path / "out")
    assert document(tmp_path / "out")["feature_mappings"] == document(tmp_path / "made")["feature_mappings"]
    assert np.array_equal(arrays(tmp_path / "out")[0], arrays(tmp_path / "made")[0])
    assert not (tmp_path / "out" / "decoder.npy").exists()
    run(config_with(tmp_path / "world", given="given.json", weights=None, top_k=2), tmp_path / "two")
    assert np.array_equal(arrays(tmp_path / "two")[0], arrays(tmp_path / "made")[0][:, :2])


def mapping(feature: int, *neighbours: tuple[int, float]) -> dict[str, Any]:
    listed = [{"feature_id": i, "cosine_similarity": c, "rank": 1} for i, c in neighbours]
    return {"source_feature_id": feature, "top_10_neighbors": listed}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "ValueError"),
        ("[]", "TypeError"),
        ('{"n_features": 3, "feature_mappings": [{"source_feature_id": 0}]}', "top_10_neighbors"),
        ({"n_features": 3, "feature_mappings": [mapping(0, (0, 0.5))]}, "neighbours of feature 0 are not different"),
        ({"n_features": 3, "feature_mappings": [mapping(0, (1, 0.5), (1, 0.4))]}, "are not different features"),
        ({"n_features": 3, "feature_mappings": [mapping(0, (3, 0.5))]}, "features of 0 to 2"),
        ({"n_features": 3, "feature_mappings": [mapping(0, (1, 1.5))]}, "feature 0 is not from -1 to 1"),
        ({"n_features": 3, "feature_mappings": [mapping(0), mapping(0)]}, "is there twice, or negative"),
        ('{"n_features": 3, "feature_mappings": [{"source_feature_id": 0, "top_10_neighbors": '
         '[{"feature_id": 1, "cosine_similarity": NaN}]}]}', "ValueError"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    config = config_with(tmp_path / "world", given="given.json", weights=None)
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "world" / "given.json").write_text(text, encoding="utf-8")
    with pytest.raises(
        BadInput, match=r"given\.json is no feature_similarities\.json that can be used: "
    ) as caught:
        run(config, tmp_path / "out")
    assert message in str(caught.value)


def test_weights_that_cannot_be_read_are_refused_with_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "world"
    folder.mkdir()
    (folder / "w.pt").write_bytes(b"x")
    (folder / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    (folder / "w.npz").write_bytes(b"PK rubbish")
    np.savez(folder / "other.npz", W_enc=np.ones((2, 2)))
    np.save(folder / "flat.npy", np.ones(3), allow_pickle=False)
    np.save(folder / "ints.npy", np.ones((3, 3), int), allow_pickle=False)
    holed = make_decoder()
    holed[4, 2] = np.nan
    np.save(folder / "nan.npy", holed, allow_pickle=False)
    wrong = {
        "w.pt": r"decoder weights are read from \.npy, \.npz, \.safetensors; write the matrix down once",
        "cut.safetensors": "its header has no possible length",
        "w.npz": "not a zip file",
        "other.npz": r"none of W_dec, w_dec, decoder\.weight is in it",
        "flat.npy": r"expected a matrix \(n_features, d_model\), found the shape \(3,\)",
        "ints.npy": "expected floats, found int64",
        "nan.npy": "the decoder direction of feature 4 holds NaN or infinity",
    }
    for i, (name, message) in enumerate(wrong.items()):
        with pytest.raises(BadInput, match=message):
            run(config_with(folder, weights=name), tmp_path / f"out{i}")
    with pytest.raises(BadInput, match="names weights and a file made before"):
        run(config_with(folder, weights="nan.npy", given="nan.npy"), tmp_path / "both")


def test_numbers_too_small_or_large_to_square_have_a_direction(tmp_path: Path) -> None:
    decoder = make_decoder()
    decoder[3] *= 1e-30
    decoder[4] *= 1e30
    (tmp_path / "world").mkdir()
    np.save(tmp_path / "world" / "w.npy", decoder, allow_pickle=False)
    run(config_with(tmp_path / "world", weights="w.npy"), tmp_path / "out")
    features, _ = arrays(tmp_path / "out")
    assert features[3, 0] == 33
    assert features[4, 0] == 34
