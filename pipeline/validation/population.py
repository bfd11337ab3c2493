"""Every prompt in which features fire, as flat arrays: what examples are chosen from."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.validation.tables import ACTIVATION_EXAMPLES, REMAKE

BLOCK = 1_024
"""Features of a shard."""


class Block(NamedTuple):
    """Some consecutive features of a table, which one shard holds."""

    number: int
    first: int
    last: int
    """The last feature itself."""


class Population(NamedTuple):
    """Prompts by feature, in the order of prompt ids; silent ones are not among them."""

    features: NDArray[np.int64]
    """(F,) those of the table, ascending, silent ones too."""
    starts: NDArray[np.int64]
    """(F+1,) where the prompts of each begin."""
    prompts: NDArray[np.int64]
    positions: NDArray[np.int64]
    """Of the strongest token, the first in the list of equal ones."""
    strengths: NDArray[np.float32]
    """Activation of that token."""

    def of(self, i: int) -> slice:
        """Prompts of the i-th feature."""
        return slice(int(self.starts[i]), int(self.starts[i + 1]))


def feature_blocks(path: Path) -> list[Block]:
    """Blocks of the features of a table."""
    frame = pl.scan_parquet(path).select(pl.col("feature_id").unique().sort()).collect()
    return blocks_of(frame["feature_id"].to_list())


def blocks_of(features: list[int]) -> list[Block]:
    """Blocks of ascending features."""
    parts = [features[i : i + BLOCK] for i in range(0, len(features), BLOCK)]
    return [Block(i, part[0], part[-1]) for i, part in enumerate(parts)]


def rows_of(path: Path, block: Block, columns: tuple[str, ...]) -> pl.DataFrame:
    """Rows of the features of a block; only their row groups are read."""
    ids = pl.col("feature_id")
    return pl.scan_parquet(path).filter((ids >= block.first) & (ids <= block.last)).select(columns).collect()


def read_population(path: Path, block: Block) -> Population:
    """The prompts of a block of features, out of activation_examples."""
    columns = ("feature_id", "prompt_id", "num_activations", "activation_pairs")
    try:
        ACTIVATION_EXAMPLES.check(pl.scan_parquet(path), path)
        frame = rows_of(path, block, columns)
    except (OSError, pl.exceptions.PolarsError) as error:
        message = str(error).splitlines()[0]
        raise BadStore(path, f"the table {ACTIVATION_EXAMPLES.name}", message, REMAKE) from error
    features = frame["feature_id"].unique().sort()
    firing = frame.filter(pl.col("num_activations") > 0)
    counts = firing["activation_pairs"].list.len().to_numpy().astype(np.int64)
    pairs = firing["activation_pairs"].explode(empty_as_null=False, keep_nulls=False).struct
    at = _strongest(pairs.field("activation_value").to_numpy(), counts)
    bounds = firing["feature_id"].search_sorted(features, side="left").to_numpy()
    return Population(
        features=features.to_numpy().astype(np.int64),
        starts=np.append(bounds, len(firing)).astype(np.int64),
        prompts=firing["prompt_id"].to_numpy().astype(np.int64),
        positions=pairs.field("token_position").to_numpy()[at].astype(np.int64),
        strengths=pairs.field("activation_value").to_numpy()[at].astype(np.float32),
    )


def _strongest(values: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) the place of the largest value of each stretch of `counts` values, the first of equal ones."""
    if not len(counts):
        return np.zeros(0, np.int64)
    begins = np.cumsum(counts) - counts
    largest = np.flatnonzero(values == np.repeat(np.maximum.reduceat(values, begins), counts))
    return largest[np.searchsorted(largest, begins)]
