"""A bundle too large for one task, made by seed: what the tests of memory, workers and kills import."""

from pathlib import Path

import numpy as np
import polars as pl
import yaml


def write_big_bundle(
    folder: Path, n_samples: int = 20_000, n_features: int = 200, per_feature: int = 4_000, parts: int = 6
) -> Path:
    """A set bundle: 8 tokens a sample, units of two samples, a group; heavy-tailed features, feature 0 everywhere."""
    generator = np.random.default_rng(3)
    (folder / "activations").mkdir(parents=True)
    tokens = np.array([f"ability_{i}" for i in range(60)], object)
    held = generator.integers(0, 60, (n_samples, 8))
    pl.DataFrame(
        {
            "tokens": tokens[held].tolist(),
            "unit": [f"build {i // 2}" for i in range(n_samples)],
            "weapon": [f"w{i % 7}" for i in range(n_samples)],
        }
    ).write_parquet(folder / "samples.parquet")
    feature, sample = [np.zeros(n_samples, np.int64)], [np.arange(n_samples)]
    for f in range(1, n_features):
        n = int(per_feature * generator.lognormal(0, 1) / 2)
        feature.append(np.full(min(n, n_samples), f))
        sample.append(generator.permutation(n_samples)[:n])
    f_all, s_all = np.concatenate(feature), np.concatenate(sample)
    order = generator.permutation(len(f_all))
    value = generator.lognormal(0, 1, len(f_all)).astype(np.float32)
    for i, chosen in enumerate(np.array_split(order, parts)):
        pl.DataFrame(
            {
                "feature": f_all[chosen].astype(np.uint32),
                "sample": s_all[chosen].astype(np.uint32),
                "position": np.zeros(len(chosen), np.uint16),
                "value": value[chosen],
            }
        ).write_parquet(folder / "activations" / f"part-{i:05d}.parquet")
    levels = {f"ability_{i}": i + 1 for i in range(5)}
    config = {
        "name": "big",
        "kind": "set",
        "n_features": n_features,
        "families": [{"name": "ladder", "encoding": "exclusive", "levels": levels}],
        "groups": [{"name": "weapon", "primary": True}],
    }
    (folder / "bundle.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder
