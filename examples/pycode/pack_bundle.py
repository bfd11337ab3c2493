"""Make the shipped bundle from the one that a build leaves: the same numbers in half the bytes.

    saeinterp-pipeline build examples/pycode/run.yaml
    python examples/pycode/pack_bundle.py examples/pycode/pycode.work/write_bundle examples/pycode/bundle

Activations keep 9 bits after the leading one (an error of at most 2^-10, so every mean stays within 1e-3), the matrices
are float16 as in the weights. It is an ordinary bundle: `saeinterp-pipeline import bundle examples/pycode/bundle`.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq


def short_mantissa(values: np.ndarray) -> np.ndarray:
    """Round float32 to 9 bits after the leading one, to nearest, as float16."""
    bits = np.float64(2.0) ** (9 - np.floor(np.log2(values.astype(np.float64))))
    rounded = np.round(values.astype(np.float64) * bits) / bits
    half = rounded.astype(np.float16)
    if not (np.isfinite(half).all() and (half > 0).all() and np.allclose(half, values, rtol=2**-10, atol=0)):
        raise SystemExit("an activation does not fit float16")
    return half


def main() -> None:
    """Read the arguments and pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    source, out = arguments.source, arguments.out
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    frame = pl.read_parquet(source / "activations" / "*.parquet").sort("feature", "sample", "position")
    columns = {
        "feature": frame["feature"].to_numpy().astype(np.uint16),
        "sample": frame["sample"].to_numpy().astype(np.uint16),
        "position": frame["position"].to_numpy().astype(np.uint8),
        "value": pa.array(short_mantissa(frame["value"].to_numpy())),
    }
    encoding = {
        "feature": "DELTA_BINARY_PACKED",
        "sample": "DELTA_BINARY_PACKED",
        "position": "PLAIN",
        "value": "BYTE_STREAM_SPLIT",
    }
    pq.write_table(
        pa.table(columns),
        out / "activations.parquet",
        row_group_size=1 << 23,
        use_dictionary=False,
        column_encoding=encoding,
        compression="brotli",  # slow to write, 5 % smaller than zstd
        compression_level=11,
    )
    for name in ("samples", "positions"):
        pl.read_parquet(source / f"{name}.parquet").write_parquet(
            out / f"{name}.parquet", compression="zstd", compression_level=19
        )
    for name in ("decoder", "unembedding"):
        np.save(out / f"{name}.npy", np.load(source / f"{name}.npy").astype(np.float16))
    for name in ("bundle.yaml", "output_tokens.json"):
        shutil.copyfile(source / name, out / name)
    for path in out.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main()
