"""How well single features of a store tell the planted archetypes, which neither the model nor the SAE was shown.

    python -m examples.loadout.archetypes --store loadout-store

For each archetype the feature is chosen by its AUROC on whole builds of the `explain` split and scored on those of the
`heldout` split, whose units are others.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import rankdata

from examples.loadout import game
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store


def auroc(activation: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """Chance that a build of the archetype has more activation than another, ties half (Mann and Whitney)."""
    n_true, n_false = int(truth.sum()), int((~truth).sum())
    ranks = rankdata(activation)
    return float((ranks[truth].sum() - n_true * (n_true + 1) / 2) / (n_true * n_false))


def whole_builds(store: Store) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.bool_]]:
    """Rows of whole builds (n,), their archetypes (n,) and whether they are held out (n,)."""
    builds = pq.read_table(game.HERE / "builds.parquet", columns=["build", "archetype"]).to_pydict()
    archetype = dict(zip(builds["build"], builds["archetype"], strict=True))
    samples = store.backend.table("samples")
    rows = np.flatnonzero((samples["view"] == "full").fill_null(False).to_numpy())
    units = samples["unit"].gather(rows).to_list()
    heldout = (samples["split"] == "heldout").gather(rows).to_numpy()
    return rows, np.array([archetype[unit] for unit in units]), heldout.astype(bool)


def activations_of(store: Store, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n_features, n) of all features on some rows, silent ones 0."""
    n_all, n_features = store.n_rows("all"), store.manifest.n_features
    found = np.zeros((n_features, len(rows)), np.float32)
    for feature in range(n_features):
        dense = np.zeros(n_all, np.float32)
        postings = store.activations(feature)
        dense[postings.rows] = postings.values
        found[feature] = dense[rows]
    return found


def main() -> None:
    """Print a table of archetypes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    store = open_store(parser.parse_args().store)
    rows, archetypes, heldout = whole_builds(store)
    activations = activations_of(store, rows)
    print("| archetype | whole builds held out | feature | AUROC |\n|---|---|---|---|")
    for name in sorted(set(archetypes.tolist())):
        truth = archetypes == name
        chosen = [auroc(activation[~heldout], truth[~heldout]) for activation in activations]
        best = int(np.argmax(chosen))
        score = auroc(activations[best][heldout], truth[heldout])
        print(f"| {name} | {int(truth[heldout].sum())} | {best} | {score:.3f} |")


if __name__ == "__main__":
    main()
