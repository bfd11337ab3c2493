"""Drawn worlds as stores, and worlds of noise alone."""

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.recover.firing import FeatureLaw
from benchmarks.recover.planting import Planter
from benchmarks.recover.sequences import draw_sequence_law
from benchmarks.recover.sets import draw_set_law
from benchmarks.recover.truth import Stratum
from benchmarks.recover.worlds import Law, WorldKind, write_draw
from pipeline.importers.run_import import import_bundle
from pipeline.progress import LogReporter
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store


def import_quietly(bundle: Path, out: Path) -> Store:
    """Import a bundle without a word, and open the store."""
    import_bundle(bundle, out, progress=LogReporter(stream=io.StringIO()))
    return open_store(out)


@contextmanager
def drawn_store(law: Law, n_units: int, seed: int) -> Iterator[Store]:
    """A store of newly drawn units, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="recover-"))
    try:
        write_draw(folder / "bundle", law, law.rows.draw(n_units, rng(seed, "recover", "draw")), seed)
        yield import_quietly(folder / "bundle", folder / "store")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def null_law(kind: WorldKind, seed: int, n_noise: int, n_dense: int) -> Law:
    """A world where nothing is planted: features that fire at random, seldom or most of the time."""
    rows = draw_set_law(seed) if kind == "set" else draw_sequence_law(seed)
    sample = rows.draw(50, rng(seed, "recover", kind, "support"))
    planter = Planter(sample, rows.pairs, rng(seed, "recover", kind, "null"))
    kinds: list[Stratum] = [*n_noise * ["noise"], *n_dense * ["dense"]]  # type: ignore[list-item]
    features: list[FeatureLaw] = [law for stratum in kinds for law in planter.make(stratum)]
    return Law(kind, rows, tuple(features))
