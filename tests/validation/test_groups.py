"""Groups of examples as files hold them, read one by one and all together."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.validation.writing import write_table
from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.patterns.records import Window
from saeinterp_mcp.validation.groups import FEW, GroupReader
from saeinterp_mcp.validation.tables import ACTIVATION_EMBEDDINGS, ACTIVATION_EXAMPLES, PROMPTS

N_FEATURES, N_PROMPTS, LENGTH = 12, 5, 10
WIDTH = 4


def tokens(prompt: int) -> list[str]:
    return [f"p{prompt}t{i}" for i in range(LENGTH)]


def write(folder: Path, kind: str = "sequence", n_vectors: int | None = None) -> GroupReader:
    """Feature f has min(f, 4) examples: of prompts 0, 1, ... at position 2 + 2 * prompt; quantiles 0, 0, 1, 1."""
    sae = {"sae_id": "s"}
    pairs = [(f, p) for f in range(N_FEATURES) for p in range(min(f, 4))]
    examples = [
        {
            "feature_id": f,
            "prompt_id": p,
            "prompt_tokens": tokens(p),
            "num_activations": 1,
            "max_activation": f + p / 8,
            "activation_pairs": [{"token_position": 2 + 2 * p, "activation_value": f + p / 8}],
            "prompt_length": LENGTH,
            "mean_activation": f + p / 8,
        }
        | sae
        for f, p in pairs
    ]
    chosen, first = [], 0
    for f in range(N_FEATURES):
        n = min(f, 4)
        chosen.append(
            {
                "feature_id": f,
                "prompt_ids": list(range(n)),
                "embeddings": [],
                "quantiles": [0, 0, 1, 1][:n],
                "positions": [2 + 2 * p for p in range(n)],
                "strengths": [f + p / 8 for p in range(n)],
                "first_vector": first,
            }
            | sae
        )
        first += n
    prompts = [{"prompt_id": p, "prompt_tokens": tokens(p)} | sae for p in range(N_PROMPTS)]
    for table, rows in ((ACTIVATION_EXAMPLES, examples), (ACTIVATION_EMBEDDINGS, chosen), (PROMPTS, prompts)):
        write_table(table, pl.DataFrame(rows, schema=dict(table.schema)), folder / table.file)
    sidecar = folder / f"{ACTIVATION_EXAMPLES.file}.metadata.json"
    sidecar.write_text(json.dumps({"result_stats": {"kind": kind}}), encoding="utf-8")
    n = len(pairs) if n_vectors is None else n_vectors
    np.save(folder / "activations.npy", np.arange(2 * n, dtype=np.float32).reshape(n, 2), allow_pickle=False)
    return reader(folder)


def reader(folder: Path) -> GroupReader:
    return opened(folder, folder / "activations.npy")


def opened(folder: Path, vectors: Path | None) -> GroupReader:
    examples, prompts, chosen = (
        folder / table.file for table in (ACTIVATION_EXAMPLES, PROMPTS, ACTIVATION_EMBEDDINGS)
    )
    return GroupReader(examples, prompts, chosen, vectors, WIDTH)


def test_a_window_is_wide_wherever_the_strongest_token_is(tmp_path: Path) -> None:
    group = write(tmp_path).groups([4])[4]
    # four tokens, two of them before the strongest
    assert group.windows[0] == Window(0, 0, 4.0, ("p0t0", "p0t1", "p0t2", "p0t3"), 0, 2)
    assert group.windows[1] == Window(1, 0, 4.125, ("p1t2", "p1t3", "p1t4", "p1t5"), 2, 2)
    # position 8 of ten: shifted at the end of the prompt
    assert group.windows[3] == Window(3, 1, 4.375, ("p3t6", "p3t7", "p3t8", "p3t9"), 6, 2)


def test_vectors_are_the_rows_of_the_feature(tmp_path: Path) -> None:
    found = write(tmp_path).groups([3, 5])
    # before feature 3 stand 0 + 1 + 2 examples, before feature 5 3 + 3 + 4
    assert found[3].vectors is not None
    assert found[3].vectors.tolist() == [[6, 7], [8, 9], [10, 11]]
    assert found[5].vectors is not None
    assert found[5].vectors[0].tolist() == [20, 21]


def test_the_first_of_each_quantile_with_their_vectors(tmp_path: Path) -> None:
    group = write(tmp_path).groups([4], per_quantile=1)[4]
    assert [window.prompt for window in group.windows] == [0, 2]
    assert group.vectors is not None
    assert group.vectors.tolist() == [[12, 13], [16, 17]]


def test_one_feature_and_many_are_read_alike(tmp_path: Path) -> None:
    found = write(tmp_path)
    features = list(range(N_FEATURES))
    assert len(features) > FEW
    together = found.groups(features)
    assert list(together) == features[1:], "feature 0 has no examples"
    for feature in features[1:]:
        alone = found.groups([feature])[feature]
        assert alone.windows == together[feature].windows
    assert found.groups([0, 99]) == {}
    assert found.features.tolist() == features[1:]


def test_a_background_is_drawn_by_its_seed(tmp_path: Path) -> None:
    found = write(tmp_path)
    drawn = [[one.feature for one in found.background(6, 1, seed).groups] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] == sorted(drawn[0])
    assert len(set(drawn[0])) == 6
    assert drawn[0] != drawn[2]
    assert len(found.background(99, None, 0).groups) == 11


def test_a_window_of_a_set_is_all_of_it(tmp_path: Path) -> None:
    found = write(tmp_path, kind="set")
    assert found.is_set
    window = found.groups([1])[1].windows[0]
    assert (window.tokens, window.start, window.at) == (tuple(tokens(0)), 0, 2)


def test_without_vectors_groups_have_none(tmp_path: Path) -> None:
    write(tmp_path)
    assert opened(tmp_path, None).groups([3])[3].vectors is None


def test_vectors_that_are_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadStore, match=r"activations\.npy: expected 38 vectors; found 20\. Run"):
        write(tmp_path, n_vectors=20).groups([3])


def test_a_table_that_is_cut_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    for table in (ACTIVATION_EMBEDDINGS, PROMPTS, ACTIVATION_EXAMPLES):
        path = tmp_path / table.file
        whole = path.read_bytes()
        path.write_bytes(whole[:-20])
        features = [3] if table is ACTIVATION_EXAMPLES else list(range(N_FEATURES))
        with pytest.raises(BadStore, match=table.name):
            reader(tmp_path).groups(features)
        path.write_bytes(whole)


def test_a_prompt_that_is_missing_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / PROMPTS.file
    frame = pl.read_parquet(path).filter(pl.col("prompt_id") != 2)
    write_table(PROMPTS, frame, path)
    with pytest.raises(BadStore, match=r"tokens of the prompt 2; found none"):
        reader(tmp_path).groups(list(range(N_FEATURES)))
