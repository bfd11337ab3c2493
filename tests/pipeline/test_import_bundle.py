"""`import bundle` on bundles that do not fit: the whole message, and nothing published; and on odd ones that do."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.importers import bundle as bundle_module
from pipeline.importers import bundle_activations
from pipeline.importers.run_import import import_bundle
from pipeline.verify import verify_store
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.manifest import Manifest
from saeinterp_mcp.store.open import open_store
from tests.worlds import Quiet, builds, texts, write_bundle

ROOT = Path(__file__).parents[2]
Change = Callable[[Path], None]
Row = tuple[Any, Any, Any, Any]
"""feature, sample, position, value"""

GEAR_ROWS: list[Row] = [(0, 0, 0, 3.0), (0, 1, 0, 6.0), (1, 2, 0, 1.5), (4, 11, 0, 2.0)]
CODE_ROWS: list[Row] = [(0, 0, 1, 3.0), (1, 0, 2, 1.5), (2, 79, 1, 2.0)]


@pytest.fixture(scope="session")
def good_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set bundle and a sequence bundle with a few activations each."""
    folder = tmp_path_factory.mktemp("good")
    made = {
        "set": write_bundle(builds(), folder / "set"),
        "sequence": write_bundle(texts(), folder / "sequence"),
    }
    fires(*GEAR_ROWS)(made["set"])
    fires(*CODE_ROWS)(made["sequence"])
    return made


@pytest.fixture(scope="session")
def good_store(good_bundles: dict[str, Path]) -> Store:
    """The set bundle, imported."""
    return imported(good_bundles["set"])


@pytest.fixture
def gear(good_bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A set bundle of the test's own: 12 samples, 5 features."""
    return Path(shutil.copytree(good_bundles["set"], tmp_path / "bundle"))


@pytest.fixture
def code(good_bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A sequence bundle of the test's own: 80 samples, 4 features, BOS excluded."""
    return Path(shutil.copytree(good_bundles["sequence"], tmp_path / "bundle"))


# --- what can be wrong with a bundle


def fires(*rows: Row, file: str = "activations.parquet", **kinds: pa.DataType) -> Change:
    """Other activations; `kinds` are the types of columns."""
    types = {
        "feature": pa.int64(),
        "sample": pa.int64(),
        "position": pa.int64(),
        "value": pa.float64(),
    } | kinds
    arrays = {name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(types.items())}

    def change(bundle: Path) -> None:
        (bundle / file).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(arrays), bundle / file)

    return change


def parts(*files: list[Row]) -> Change:
    """Activations in a folder, a file each."""

    def change(bundle: Path) -> None:
        removed("activations.parquet")(bundle)
        for i, rows in enumerate(files):
            fires(*rows, file=f"activations/{i}.parquet")(bundle)

    return change


def removed(name: str) -> Change:
    return lambda bundle: (bundle / name).unlink()


def says(**fields: Any) -> Change:
    """Other fields in bundle.yaml."""

    def change(bundle: Path) -> None:
        path = bundle / "bundle.yaml"
        content = yaml.safe_load(path.read_text(encoding="utf-8")) | fields
        path.write_text(yaml.safe_dump(content), encoding="utf-8")

    return change


def holds(name: str, content: bytes) -> Change:
    def change(bundle: Path) -> None:
        (bundle / name).write_bytes(content)

    return change


def cut(name: str) -> Change:
    """The second half of a file is lost."""

    def change(bundle: Path) -> None:
        whole = (bundle / name).read_bytes()
        (bundle / name).write_bytes(whole[: len(whole) // 2])

    return change


def column(file: str, name: str, values: Any) -> Change:
    """One column of a table replaced or added; None takes it away."""

    def change(bundle: Path) -> None:
        table = pq.read_table(bundle / file)
        if name in table.column_names:
            table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))
        pq.write_table(table, bundle / file)

    return change


def table(name: str, **columns: Any) -> Change:
    return lambda bundle: pq.write_table(pa.table(columns), bundle / name)


def matrix(name: str, array: Any) -> Change:
    return lambda bundle: np.save(bundle / name, array)


def linked_away(bundle: Path) -> None:
    """The attributes are a link to a file beside the bundle."""
    (bundle / "weapon_attributes.parquet").rename(bundle.parent / "elsewhere.parquet")
    (bundle / "weapon_attributes.parquet").symlink_to(bundle.parent / "elsewhere.parquet")


def archived(bundle: Path) -> None:
    """The decoder is an .npz file."""
    with (bundle / "decoder.npy").open("wb") as file:
        np.savez(file, decoder=np.ones((5, 2), np.float32))


def both(*changes: Change) -> Change:
    def change(bundle: Path) -> None:
        for one in changes:
            one(bundle)

    return change


SWIM = {"name": "swim", "encoding": "cumulative", "levels": {"swim_3": 3, "swim_6": 6}}
WEAPON = {"name": "weapon", "primary": True}
TOKENS = [["a"]] * 12


class Case(NamedTuple):
    """A bundle that does not fit."""

    name: str
    change: Change
    message: str
    """The whole message; `BUNDLE` is the bundle's folder, `...` what a library says."""


CONFIG = [
    Case(
        "the folder is missing",
        lambda bundle: shutil.rmtree(bundle),
        "BUNDLE is not a folder; a bundle is a folder holding bundle.yaml and samples.parquet",
    ),
    Case(
        "the yaml is missing",
        removed("bundle.yaml"),
        "BUNDLE/bundle.yaml does not exist or is not a file",
    ),
    Case(
        "the yaml is no YAML", holds("bundle.yaml", b"name: [a"), "BUNDLE/bundle.yaml is not valid YAML: ..."
    ),
    Case(
        "the yaml is no UTF-8",
        holds("bundle.yaml", b"name: \xff"),
        "BUNDLE/bundle.yaml is not valid YAML: ...",
    ),
    Case(
        "the yaml is a list",
        holds("bundle.yaml", b"- name: a\n"),
        "BUNDLE/bundle.yaml must hold a mapping at its top level, found list",
    ),
    Case(
        "a field is misspelt",
        says(n_feature=5),
        "BUNDLE/bundle.yaml: n_feature: Extra inputs are not permitted",
    ),
    Case(
        "the name has a slash",
        says(name="a/b"),
        "BUNDLE/bundle.yaml: name: Value error, 'a/b' must consist of letters, digits, '_', '-' and '.'",
    ),
    Case(
        "the kind is unknown",
        says(kind="bag"),
        "BUNDLE/bundle.yaml: kind: Input should be 'set' or 'sequence'",
    ),
    Case(
        "there is no feature",
        says(n_features=0),
        "BUNDLE/bundle.yaml: n_features: Input should be greater than or equal to 1",
    ),
    Case(
        "n_features does not fit u32",
        says(n_features=2**32),
        "BUNDLE/bundle.yaml: n_features: Input should be less than 4294967295",
    ),
    Case(
        "a token is in two families",
        says(families=[SWIM, {"name": "b", "levels": {"swim_6": 1}}]),
        "BUNDLE/bundle.yaml: value: Value error, token 'swim_6' is in families 'swim' and 'b'; one at most",
    ),
    Case(
        "a family is listed twice",
        says(families=[SWIM, {"name": "swim", "levels": {"x": 1}}]),
        "BUNDLE/bundle.yaml: value: Value error, family 'swim' is listed twice",
    ),
    Case(
        "a family's name has a blank",
        says(families=[{"name": "my family", "levels": {"x": 1}}]),
        "BUNDLE/bundle.yaml: value: Value error, family name 'my family' must be letters, digits, '_' and '-'",
    ),
    Case(
        "a family has no level",
        says(families=[{"name": "swim", "levels": {}}]),
        "BUNDLE/bundle.yaml: families.0.levels: Dictionary should have at least 1 item after validation, not 0",
    ),
    Case(
        "a level is 0",
        says(families=[{"name": "swim", "levels": {"swim_3": 0}}]),
        "BUNDLE/bundle.yaml: families.0.levels: Value error, token 'swim_3' has level 0; "
        "levels are positive, 0 means none",
    ),
    Case(
        "two groups are primary",
        says(groups=[WEAPON, {"name": "season", "primary": True}]),
        "BUNDLE/bundle.yaml: value: Value error, more than one group is primary",
    ),
    Case(
        "a group is listed twice",
        says(groups=[WEAPON, {"name": "weapon"}]),
        "BUNDLE/bundle.yaml: value: Value error, group 'weapon' is listed twice",
    ),
    Case(
        "positions are excluded in a set store",
        says(excluded_positions=[0]),
        "BUNDLE/bundle.yaml: value: Value error, excluded_positions has no meaning in a set store",
    ),
    Case(
        "an excluded position is negative",
        says(kind="sequence", excluded_positions=[-1]),
        "BUNDLE/bundle.yaml: excluded_positions.0: Input should be greater than or equal to 0",
    ),
    Case(
        "an unembedding has no tokens",
        says(output_tokens=None),
        "BUNDLE/bundle.yaml: value: Value error, unembedding and output_tokens must be given together",
    ),
    Case(
        "an unembedding has no decoder",
        says(decoder=None),
        "BUNDLE/bundle.yaml: value: Value error, unembedding needs decoder",
    ),
]

SAMPLES = [
    Case("samples are missing", removed("samples.parquet"), "BUNDLE/samples.parquet is missing"),
    Case(
        "samples are no Parquet",
        holds("samples.parquet", b"tokens\na\n"),
        "BUNDLE/samples.parquet is not a Parquet file: ...",
    ),
    Case(
        "samples are cut short",
        cut("samples.parquet"),
        "BUNDLE/samples.parquet is not a Parquet file: ...",
    ),
    Case(
        "there is no sample",
        table("samples.parquet", tokens=pa.array([], pa.list_(pa.string()))),
        "BUNDLE/samples.parquet holds no sample",
    ),
    Case(
        "there are no tokens",
        both(column("samples.parquet", "tokens", None), column("samples.parquet", "token", TOKENS)),
        "BUNDLE/samples.parquet has no column 'tokens'; nearest: 'token'",
    ),
    Case(
        "there are two columns of tokens",
        lambda bundle: pq.write_table(
            pa.Table.from_arrays([pa.array(TOKENS), pa.array(TOKENS)], names=["tokens", "tokens"]),
            bundle / "samples.parquet",
        ),
        "BUNDLE/samples.parquet has more than one column 'tokens'",
    ),
    Case(
        "tokens are strings",
        column("samples.parquet", "tokens", ["a b"] * 12),
        "BUNDLE/samples.parquet: column 'tokens' must hold lists of strings, found string",
    ),
    Case(
        "tokens are lists of numbers",
        column("samples.parquet", "tokens", [[1]] * 12),
        "BUNDLE/samples.parquet: column 'tokens' must hold lists of strings, found lists of int64",
    ),
    Case(
        "tokens are categories of numbers",
        # Parquet cannot hold dictionaries of numbers, so Arrow gives the numbers back
        column(
            "samples.parquet",
            "tokens",
            pa.ListArray.from_arrays(
                list(range(13)), pa.DictionaryArray.from_arrays(pa.array([0] * 12, pa.int8()), pa.array([7]))
            ),
        ),
        "BUNDLE/samples.parquet: column 'tokens' must hold lists of strings, found lists of ...",
    ),
    Case(
        "the tokens of a sample are null",
        column("samples.parquet", "tokens", [["a"]] * 3 + [None] + [["a"]] * 8),
        "BUNDLE/samples.parquet, row 3: tokens is null; a sample without tokens has an empty list",
    ),
    Case(
        "a token is null",
        column("samples.parquet", "tokens", [["a"], [], ["b", None]] + [["a"]] * 9),
        "BUNDLE/samples.parquet, row 2: a token is null",
    ),
    Case(
        "a unit is null",
        column("samples.parquet", "unit", ["u"] * 11 + [None]),
        "BUNDLE/samples.parquet, row 11: unit is null",
    ),
    Case(
        "a listed group is missing",
        says(groups=[WEAPON, {"name": "seasons"}]),
        "BUNDLE/samples.parquet has no column for the group 'seasons' of bundle.yaml; nearest: 'season', 'weapon'",
    ),
    Case(
        "a listed group holds numbers",
        both(column("samples.parquet", "year", list(range(12))), says(groups=[WEAPON, {"name": "year"}])),
        "BUNDLE/samples.parquet: group 'year' must hold strings or categories, found int64",
    ),
    Case(
        "a group's name has a blank",
        column("samples.parquet", "my group", ["x"] * 12),
        "BUNDLE/samples.parquet: group column 'my group' must be named with letters, digits, '_' and '-'",
    ),
    Case(
        "attributes are missing",
        removed("weapon_attributes.parquet"),
        "BUNDLE/weapon_attributes.parquet is missing, but bundle.yaml names it",
    ),
    Case(
        "attributes lie outside",
        says(groups=[WEAPON | {"attributes": "../secret.parquet"}]),
        "BUNDLE/bundle.yaml: '../secret.parquet' points outside the bundle",
    ),
    Case(
        "attributes lie outside by a link",
        linked_away,
        "BUNDLE/bundle.yaml: 'weapon_attributes.parquet' points outside the bundle",
    ),
    Case(
        "attributes have no column of the group",
        table("weapon_attributes.parquet", weapons=["roller"], kind=["x"]),
        "BUNDLE/weapon_attributes.parquet has no column 'weapon'; nearest: 'weapons'",
    ),
    Case(
        "attributes name a value twice",
        table("weapon_attributes.parquet", weapon=["roller", "brush", "roller"], kind=["x", "y", "z"]),
        "BUNDLE/weapon_attributes.parquet, row 2: weapon 'roller' is there twice",
    ),
    Case(
        "an attribute's name has a blank",
        table("weapon_attributes.parquet", weapon=["roller"], **{"my kind": ["x"]}),
        "BUNDLE/weapon_attributes.parquet: attribute 'my kind' must be named with letters, digits, '_' and '-'",
    ),
]

NOT_POSITIVE = "is not positive in float32 (--negatives drop|abs handles negative ones)"
ACTIVATIONS = [
    Case(
        "activations are missing",
        removed("activations.parquet"),
        "BUNDLE has neither activations.parquet nor activations/*.parquet",
    ),
    Case(
        "the folder of activations is empty",
        both(removed("activations.parquet"), lambda bundle: (bundle / "activations").mkdir()),
        "BUNDLE has neither activations.parquet nor activations/*.parquet",
    ),
    Case(
        "activations are there in both forms",
        fires(*GEAR_ROWS, file="activations/0.parquet"),
        "BUNDLE has both activations.parquet and activations/; keep one",
    ),
    Case(
        "activations are no Parquet",
        holds("activations.parquet", b"feature,sample,position,value\n"),
        "BUNDLE/activations.parquet is not a Parquet file: ...",
    ),
    Case(
        "activations are cut short",
        cut("activations.parquet"),
        "BUNDLE/activations.parquet is not a Parquet file: ...",
    ),
    Case(
        "a column is missing",
        column("activations.parquet", "position", None),
        "BUNDLE/activations.parquet has no column 'position'; there are: 'feature', 'sample', 'value'",
    ),
    Case(
        "a feature is a float",
        fires(*GEAR_ROWS, feature=pa.float32()),
        "BUNDLE/activations.parquet: column 'feature' must hold integers, found float",
    ),
    Case(
        "a value is a string",
        fires((0, 0, 0, "3"), value=pa.string()),
        "BUNDLE/activations.parquet: column 'value' must hold numbers, found string",
    ),
    *(
        Case(
            f"a {name} is null",
            fires(*GEAR_ROWS[:2], tuple(None if i == at else v for i, v in enumerate(GEAR_ROWS[2]))),  # type: ignore[arg-type]
            f"BUNDLE/activations.parquet, row 2: {name} None is null",
        )
        for at, name in enumerate(("feature", "sample", "position", "value"))
    ),
    Case(
        "a feature is too large",
        fires(*GEAR_ROWS, (5, 0, 0, 1.0)),
        "BUNDLE/activations.parquet, row 4: feature 5 is not in 0 to 4",
    ),
    Case(
        "a feature is negative",
        fires(*GEAR_ROWS, (-1, 0, 0, 1.0)),
        "BUNDLE/activations.parquet, row 4: feature -1 is not in 0 to 4",
    ),
    Case(
        "a feature is beyond 64 bits with a sign",
        fires((2**64 - 1, 0, 0, 1.0), feature=pa.uint64()),
        "BUNDLE/activations.parquet, row 0: feature 18446744073709551615 is not in 0 to 4",
    ),
    Case(
        "a sample is too large",
        fires((0, 12, 0, 1.0)),
        "BUNDLE/activations.parquet, row 0: sample 12 is not a row of samples.parquet (0 to 11)",
    ),
    Case(
        "a sample is negative",
        fires((0, -12, 0, 1.0)),
        "BUNDLE/activations.parquet, row 0: sample -12 is not a row of samples.parquet (0 to 11)",
    ),
    Case(
        "a set has a position",
        fires(*GEAR_ROWS, (0, 3, 1, 1.0)),
        "BUNDLE/activations.parquet, row 4: position 1 must be 0 in a set store",
    ),
    Case(
        "a value is 0",
        fires((0, 0, 0, 1.0), (0, 1, 0, 0.0)),
        f"BUNDLE/activations.parquet, row 1: value 0.0 {NOT_POSITIVE}",
    ),
    Case(
        "a value is 0 in float32",
        fires((0, 0, 0, 1.0), (0, 1, 0, 1e-60)),
        f"BUNDLE/activations.parquet, row 1: value 1e-60 {NOT_POSITIVE}",
    ),
    Case(
        "a value is negative",
        fires((0, 0, 0, -0.5)),
        f"BUNDLE/activations.parquet, row 0: value -0.5 {NOT_POSITIVE}",
    ),
    Case(
        "a value is not a number",
        fires((0, 0, 0, float("nan"))),
        "BUNDLE/activations.parquet, row 0: value nan is not finite in float32",
    ),
    Case(
        "a value is infinite",
        fires((0, 0, 0, float("-inf"))),
        "BUNDLE/activations.parquet, row 0: value -inf is not finite in float32",
    ),
    Case(
        "a value is too large for float32",
        fires((0, 0, 0, 1e39)),
        "BUNDLE/activations.parquet, row 0: value 1e+39 is not finite in float32",
    ),
    Case(
        "an activation is there twice",
        fires(*GEAR_ROWS, (3, 3, 0, 1.0), (0, 1, 0, 9.0), (0, 1, 0, 9.0)),
        "BUNDLE/activations.parquet, row 5: feature 0, sample 1, position 0 is there more than once",
    ),
    Case(
        "an activation is there twice, in two files",
        parts(GEAR_ROWS, [(3, 3, 0, 1.0)], [(3, 4, 0, 1.0), (1, 2, 0, 1.5)]),
        "BUNDLE/activations/2.parquet, row 1: feature 1, sample 2, position 0 is there more than once",
    ),
    Case(
        "the second file is wrong",
        parts(GEAR_ROWS, [(3, 3, 0, 1.0), (9, 3, 0, 1.0)]),
        "BUNDLE/activations/1.parquet, row 1: feature 9 is not in 0 to 4",
    ),
]

WEIGHTS = [
    Case(
        "the decoder is missing",
        removed("decoder.npy"),
        "BUNDLE/decoder.npy is missing, but bundle.yaml names it",
    ),
    Case(
        "the decoder has too few features",
        matrix("decoder.npy", np.ones((4, 2), np.float32)),
        "BUNDLE/decoder.npy has shape 4 x 2, expected 5 x any",
    ),
    Case(
        "the decoder is a list",
        matrix("decoder.npy", np.ones(5, np.float32)),
        "BUNDLE/decoder.npy has shape 5, expected 5 x any",
    ),
    Case(
        "the decoder holds integers",
        matrix("decoder.npy", np.ones((5, 2), np.int64)),
        "BUNDLE/decoder.npy must hold floating point numbers, found int64",
    ),
    Case(
        "the decoder holds objects",
        matrix("decoder.npy", np.full((5, 2), None, object)),
        "BUNDLE/decoder.npy is not a .npy file without objects: "
        "Object arrays cannot be loaded when allow_pickle=False",
    ),
    Case(
        "the decoder is an archive",
        archived,
        "BUNDLE/decoder.npy is not a .npy file without objects: ...",
    ),
    Case(
        "the decoder is empty",
        holds("decoder.npy", b""),
        "BUNDLE/decoder.npy is not a .npy file without objects: ...",
    ),
    Case(
        "the decoder is cut short",
        cut("decoder.npy"),
        "BUNDLE/decoder.npy is not a .npy file without objects: ...",
    ),
    Case(
        "the decoder is not finite",
        matrix("decoder.npy", np.array([[1, 1], [1, np.nan], [1, 1], [1, 1], [1, 1]], np.float32)),
        "BUNDLE/decoder.npy, row 1: column 1 holds nan, not finite in float32",
    ),
    Case(
        "the decoder is too large for float32",
        matrix("decoder.npy", np.full((5, 2), 1e300)),
        "BUNDLE/decoder.npy, row 0: column 0 holds 1e+300, not finite in float32",
    ),
    Case(
        "the unembedding has another width",
        matrix("unembedding.npy", np.ones((3, 3), np.float32)),
        "BUNDLE/unembedding.npy has shape 3 x 3, expected 2 x any",
    ),
    Case(
        "the output tokens are too few",
        says(output_tokens=["a", "b"]),
        "BUNDLE/unembedding.npy has 3 columns, but output_tokens holds 2",
    ),
    Case(
        "the file of output tokens is no JSON",
        both(holds("tokens.json", b"[a]"), says(output_tokens="tokens.json")),
        "BUNDLE/tokens.json is not JSON: ...",
    ),
    Case(
        "the file of output tokens holds numbers",
        both(holds("tokens.json", b"[1, 2, 3]"), says(output_tokens="tokens.json")),
        "BUNDLE/tokens.json must hold a list of strings",
    ),
]

SEQUENCES = [
    Case(
        "a position is too large",
        fires((0, 0, 1, 1.0), (0, 0, 99, 1.0)),
        "BUNDLE/activations.parquet, row 1: position 99 is outside the sample's tokens",
    ),
    Case(
        "a position is negative",
        fires((0, 0, -1, 1.0)),
        "BUNDLE/activations.parquet, row 0: position -1 is outside the sample's tokens",
    ),
    Case(
        "an activation is there twice",
        fires(*CODE_ROWS, (1, 0, 2, 1.0)),
        "BUNDLE/activations.parquet, row 3: feature 1, sample 0, position 2 is there more than once",
    ),
    Case(
        "every position is excluded",
        says(excluded_positions=list(range(99))),
        "BUNDLE/samples.parquet has no counted position: every position is excluded",
    ),
    Case(
        "positions are no Parquet",
        holds("positions.parquet", b"sample,position\n"),
        "BUNDLE/positions.parquet is not a Parquet file: ...",
    ),
    Case(
        "positions have no sample",
        table("positions.parquet", position=[1], depth=[1]),
        "BUNDLE/positions.parquet has no column 'sample'; there are: 'position', 'depth'",
    ),
    Case(
        "a level is a float",
        table("positions.parquet", sample=[0], position=[1], depth=[1.0]),
        "BUNDLE/positions.parquet: column 'depth' must hold integers, found double",
    ),
    Case(
        "a level is null",
        table("positions.parquet", sample=[0, 0], position=[1, 2], depth=[1, None]),
        "BUNDLE/positions.parquet, row 1: depth is null",
    ),
    Case(
        "a level is negative",
        table("positions.parquet", sample=[0, 0], position=[1, 2], depth=[1, -2]),
        "BUNDLE/positions.parquet, row 1: depth -2 is negative",
    ),
    Case(
        "a family of positions has a blank in its name",
        table("positions.parquet", sample=[0], position=[1], **{"my depth": [1]}),
        "BUNDLE/positions.parquet: family 'my depth' must be named with letters, digits, '_' and '-'",
    ),
    Case(
        "a family of positions is also one of tokens",
        table("positions.parquet", sample=[0], position=[1], digits=[1]),
        "BUNDLE/positions.parquet: family 'digits' is also in bundle.yaml",
    ),
    Case(
        "positions name an unknown sample",
        table("positions.parquet", sample=[0, 80], position=[1, 1], depth=[1, 1]),
        "BUNDLE/positions.parquet, row 1: sample is not a row of samples.parquet (0 to 79)",
    ),
    Case(
        "positions name a negative sample",
        table("positions.parquet", sample=[-1], position=[1], depth=[1]),
        "BUNDLE/positions.parquet, row 0: sample is not a row of samples.parquet (0 to 79)",
    ),
    Case(
        "positions lie outside the sample",
        table("positions.parquet", sample=[0, 0], position=[1, 99], depth=[1, 1]),
        "BUNDLE/positions.parquet, row 1: position is outside the sample's tokens",
    ),
    Case(
        "a position is there twice",
        table("positions.parquet", sample=[1, 0, 1, 0], position=[1, 2, 2, 2], depth=[1, 1, 1, 2]),
        "BUNDLE/positions.parquet, row 3: sample 0, position 2 is there more than once",
    ),
]

SETS = [
    Case(
        "a set has positions",
        table("positions.parquet", sample=[1, 3], position=[0, 1], rank=[1, 2]),
        "BUNDLE/positions.parquet, row 1: position must be 0 in a set store",
    ),
    *CONFIG,
    *SAMPLES,
    *ACTIVATIONS,
    *WEIGHTS,
]


def refusal(bundle: Path, **options: Any) -> str:
    """What the import of a bundle is refused with; nothing is published."""
    out = bundle.parent / "store"
    with pytest.raises(BadInput) as error:
        import_bundle(bundle, out, progress=Quiet(), **options)
    assert not out.exists()
    assert not [p for p in bundle.parent.iterdir() if "store" in p.name and p.name != "store.work"]
    return str(error.value).replace(str(bundle), "BUNDLE")


def assert_says(found: str, message: str) -> None:
    if message.endswith("..."):
        start = message.removesuffix("...")
        assert found.startswith(start)
        assert len(found) > len(start)
    else:
        assert found == message


@pytest.mark.parametrize("case", SETS, ids=lambda case: case.name)
def test_a_set_bundle_that_does_not_fit_is_refused(case: Case, gear: Path) -> None:
    case.change(gear)
    assert_says(refusal(gear), case.message)


@pytest.mark.parametrize("case", SEQUENCES, ids=lambda case: case.name)
def test_a_sequence_bundle_that_does_not_fit_is_refused(case: Case, code: Path) -> None:
    case.change(code)
    assert_says(refusal(code), case.message)


def test_a_row_is_counted_over_batches(gear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_activations, "BATCH_ROWS", 2)
    fires(*GEAR_ROWS, (0, 5, 0, float("nan")))(gear)
    assert refusal(gear) == "BUNDLE/activations.parquet, row 4: value nan is not finite in float32"


def test_a_page_that_is_damaged_is_named_with_the_rows_before_it(gear: Path) -> None:
    path = gear / "activations.parquet"
    rows = pa.table({"feature": [0] * 12, "sample": range(12), "position": [0] * 12, "value": [1.5] * 12})
    pq.write_table(rows, path, compression="zstd", use_dictionary=False)
    whole = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    whole[start + 8 : start + 60] = bytes(52)
    path.write_bytes(bytes(whole))
    assert_says(refusal(gear), "BUNDLE/activations.parquet is damaged after row 0: ...")


def test_a_duplicate_is_counted_among_the_rows_that_are_kept(gear: Path) -> None:
    fires((0, 0, 0, 1.0), (0, 0, 0, -1.0), (0, 0, 0, 2.0))(gear)
    message = "BUNDLE/activations.parquet, row {}: feature 0, sample 0, position 0 is there more than once"
    assert refusal(gear, negatives="drop") == message.format(2)
    assert refusal(gear, negatives="abs") == message.format(1)


def test_a_duplicate_is_found_below_a_folder_whose_name_is_a_pattern(gear: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a[b]*?" / "bundle"
    shutil.move(gear, odd)
    fires((0, 0, 0, 1.0), (0, 0, 0, 1.0))(odd)
    assert refusal(odd) == (
        "BUNDLE/activations.parquet, row 1: feature 0, sample 0, position 0 is there more than once"
    )


@pytest.mark.parametrize("negatives", ["drop", "abs"])
def test_what_is_not_finite_is_refused_whatever_becomes_of_negatives(
    gear: Path, negatives: Literal["drop", "abs"]
) -> None:
    fires((0, 0, 0, float("-inf")))(gear)
    assert refusal(gear, negatives=negatives) == (
        "BUNDLE/activations.parquet, row 0: value -inf is not finite in float32"
    )


def test_a_place_that_is_taken_is_refused(gear: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    out.mkdir()
    with pytest.raises(BadInput) as error:
        import_bundle(gear, out, progress=Quiet())
    assert str(error.value) == (
        f"{out} exists; a store is never written over. Name another folder or remove it."
    )
    assert list(out.iterdir()) == []
    assert not (tmp_path / "store.work").exists()


@pytest.mark.parametrize(
    "change",
    [
        removed("samples.parquet"),
        fires(*GEAR_ROWS, GEAR_ROWS[0]),
        matrix("decoder.npy", np.ones((4, 2), np.float32)),
    ],
    ids=["samples", "activations", "decoder"],
)
def test_what_a_refused_import_left_does_no_harm(
    change: Change, gear: Path, good_bundles: dict[str, Path], good_store: Store, tmp_path: Path
) -> None:
    change(gear)
    refusal(gear)
    assert (tmp_path / "store.work").is_dir()
    shutil.rmtree(gear)
    shutil.copytree(good_bundles["set"], gear)
    again = imported(gear)
    assert again.manifest.fingerprint() == good_store.manifest.fingerprint()
    assert again.manifest.provenance == good_store.manifest.provenance
    assert not (tmp_path / "store.work").exists()
    verify_store(tmp_path / "store")


# --- bundles that fit, though they look odd


def imported(bundle: Path, out: Path | None = None, **options: Any) -> Store:
    out = out or bundle.parent / "store"
    import_bundle(bundle, out, progress=Quiet(), **options)
    return open_store(out)


def stored(store: Store) -> list[tuple[int, int, int, float]]:
    """All activations, as the bundle has them: feature, sample, position, value."""
    source = store.backend.column("samples/source")
    return sorted(
        (feature, int(source[store.row_sample[row]]), int(store.row_position[row]), float(value))
        for feature in range(store.manifest.n_features)
        for row, value in zip(*store.activations(feature), strict=True)
    )


def notes(manifest: Manifest) -> list[str]:
    return [check["note"] for check in manifest.checks if check["name"] == "import"]


def test_a_family_naming_a_token_that_never_occurs_is_only_a_warning(gear: Path) -> None:
    says(families=[{"name": "swim", "levels": {"swim_3": 3, "swim_9": 9}}])(gear)
    store = imported(gear)
    assert notes(store.manifest) == ["family swim: token 'swim_9' never occurs in the samples"]
    assert store.family("swim").levels == (3, 9)


def test_negative_values_are_dropped_and_counted(gear: Path) -> None:
    fires((0, 0, 0, 3.0), (0, 1, 0, -6.0), (1, 2, 0, -1.5), (1, 3, 0, 0.0))(gear)
    store = imported(gear, negatives="drop")
    assert store.manifest.dropped == {"negative": 2, "zero": 1}
    assert stored(store) == [(0, 0, 0, 3.0)]


def test_negative_values_are_made_positive_and_counted(gear: Path) -> None:
    fires((0, 0, 0, 3.0), (0, 1, 0, -6.0), (1, 2, 0, -1.5), (1, 3, 0, 0.0))(gear)
    store = imported(gear, negatives="abs")
    assert store.manifest.dropped == {"negative_made_positive": 2, "zero": 1}
    assert stored(store) == [(0, 0, 0, 3.0), (0, 1, 0, 6.0), (1, 2, 0, 1.5)]


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()],
    ids=str,
)
def test_integers_may_have_any_width(gear: Path, kind: pa.DataType) -> None:
    fires(*GEAR_ROWS, feature=kind, sample=kind, position=kind)(gear)
    assert_activations_are_read(gear, sorted(GEAR_ROWS))


def assert_activations_are_read(bundle: Path, expected: list[Row]) -> None:
    """What the importer reads, without making a store of it."""
    config = bundle_module.read_config(bundle)
    samples = bundle_module.read_samples(bundle, config)
    files = bundle_activations.activation_files(bundle)
    found = [
        row
        for part in bundle_activations.activation_parts(files)
        for batch in bundle_activations.read_part(part, config, samples.lengths, None, {})
        for row in zip(
            batch.feature.tolist(),
            batch.sample.tolist(),
            batch.position.tolist(),
            batch.value.tolist(),
            strict=True,
        )
    ]
    assert sorted(found) == expected


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64(), pa.int8(), pa.uint64()], ids=str)
def test_values_may_be_any_numbers(gear: Path, kind: pa.DataType) -> None:
    numbers = [np.float16(v) if kind == pa.float16() else v for v in (3, 6)]
    fires((0, 0, 0, numbers[0]), (0, 1, 0, numbers[1]), value=kind)(gear)
    assert_activations_are_read(gear, [(0, 0, 0, 3.0), (0, 1, 0, 6.0)])


def test_narrow_integers_end_in_the_same_store(gear: Path, good_store: Store) -> None:
    fires(*GEAR_ROWS, feature=pa.int8(), sample=pa.uint64(), position=pa.int16())(gear)
    assert stored(good_store) == sorted(GEAR_ROWS)
    assert imported(gear).manifest.fingerprint() == good_store.manifest.fingerprint()


def test_rows_may_come_in_any_order_and_in_many_files(code: Path, tmp_path: Path) -> None:
    other = shutil.copytree(code, tmp_path / "other")
    parts([CODE_ROWS[2]], [], [CODE_ROWS[1], CODE_ROWS[0]])(other)
    (other / "activations" / "README.txt").write_text("not read", encoding="utf-8")
    one, two = imported(code), imported(other, tmp_path / "two")
    assert stored(one) == stored(two) == CODE_ROWS
    assert one.manifest.fingerprint() == two.manifest.fingerprint()


def test_a_null_group_is_a_value_of_its_own(good_store: Store) -> None:
    # builds() has one sample without a weapon
    store = good_store
    group = store.group("weapon")
    assert group.values == ("(none)", "blaster", "brush", "charger", "roller")
    assert np.bincount(store.group_of_samples("weapon")).tolist() == [1, 3, 3, 2, 3]
    assert group.attributes["class"] == ("(none)", "blaster", "roller", "charger", "roller")


def test_repeated_tokens_of_a_set_count_once(gear: Path) -> None:
    column("samples.parquet", "tokens", [["b", "a", "b", "b"]] + [["a"]] * 11)(gear)
    store = imported(gear)
    words = {int(s): [store.tokens[t] for t in store.tokens_of_sample(i)] for i, s in source_of(store)}
    assert words == {0: ["a", "b"], **{i: ["a"] for i in range(1, 12)}}
    assert store.manifest.dropped == {"repeated_token": 2}
    vocabulary = store.backend.table("vocabulary")
    assert vocabulary.select("token", "rows", "samples").rows() == [("a", 12, 12), ("b", 1, 1)]


def source_of(store: Store) -> list[tuple[int, int]]:
    return list(enumerate(store.backend.column("samples/source").tolist()))


def test_repeated_tokens_do_not_change_the_default_unit(gear: Path) -> None:
    column("samples.parquet", "unit", None)(gear)
    column("samples.parquet", "tokens", [["b", "a", "b"], ["a", "b"]] + [["a"]] * 10)(gear)
    assert imported(gear).manifest.n_units == 2


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
def test_groups_and_tokens_may_be_any_kind_of_text(gear: Path, kind: pa.DataType) -> None:
    values = ["x", None, "y"] * 4
    column("samples.parquet", "weapon", pa.array(values, kind))(gear)
    column("samples.parquet", "tokens", pa.array([["x", "z"], [], ["y"]] * 4, pa.list_(kind)))(gear)
    config = bundle_module.read_config(gear)
    samples = bundle_module.read_samples(gear, config)
    codes, names = samples.groups["weapon"]
    assert [names[c] for c in codes] == ["x", "(none)", "y"] * 4
    assert [samples.token_names[t] for t in samples.token_index] == ["x", "z", "y"] * 4
    assert samples.lengths.tolist() == [2, 0, 1] * 4


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["s1", "s2"])], ids=str)
def test_a_group_may_be_categorical_as_polars_writes_it(gear: Path, kind: Any) -> None:
    path = gear / "samples.parquet"
    pl.read_parquet(path).with_columns(pl.col("season").cast(kind)).write_parquet(path)
    store = imported(gear)
    assert store.group("season").values == ("s1", "s2")


def test_a_group_that_is_not_listed_is_a_group_all_the_same(gear: Path) -> None:
    column("samples.parquet", "mode", ["x"] * 12)(gear)
    column("samples.parquet", "year", list(range(12)))(gear)
    store = imported(gear)
    assert {g.name: g.primary for g in store.manifest.groups} == {
        "weapon": True,
        "season": False,
        "mode": False,
    }


def test_samples_may_be_empty(code: Path) -> None:
    path = code / "samples.parquet"
    words = pl.read_parquet(path)["tokens"].to_list()
    column("samples.parquet", "tokens", [[] if i in (1, 5) else w for i, w in enumerate(words)])(code)
    removed("positions.parquet")(code)
    store = imported(code)
    lengths = {s: len(store.tokens_of_sample(i)) for i, s in source_of(store)}
    assert [s for s, n in lengths.items() if n == 0] == sorted({1, 5}, key=list(lengths).index)
    assert stored(store) == CODE_ROWS


def test_activations_where_nothing_counts_are_left_out_and_counted(code: Path) -> None:
    fires(*CODE_ROWS, (2, 0, 0, 50.0), (2, 1, 0, 50.0))(code)
    store = imported(code)
    assert stored(store) == CODE_ROWS
    assert store.manifest.dropped == {"excluded_position": 2}


def test_a_set_may_have_levels_that_are_no_tokens(gear: Path) -> None:
    # row 8 of builds() has no token at all
    table("positions.parquet", sample=[8, 1], position=[0, 0], rank=[7, 2])(gear)
    store = imported(gear)
    assert store.family("rank").levels == (2, 7)
    codes = dict(zip((s for _, s in source_of(store)), store.codes("rank").tolist(), strict=True))
    assert {s: c for s, c in codes.items() if c} == {8: 2, 1: 1}


def test_no_activation_at_all_is_a_store_too(gear: Path) -> None:
    fires()(gear)
    store = imported(gear)
    assert store.manifest.n_activations == 0
    verify_store(gear.parent / "store")


# --- the command


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (removed("samples.parquet"), "{}/samples.parquet is missing"),
        (fires((9, 0, 0, 1.0)), "{}/activations.parquet, row 0: feature 9 is not in 0 to 4"),
        (says(n_feature=5), "{}/bundle.yaml: n_feature: Extra inputs are not permitted"),
    ],
    ids=["samples", "activations", "yaml"],
)
def test_the_command_ends_with_2_and_says_why_on_stderr(change: Change, message: str, gear: Path) -> None:
    change(gear)
    done = command("import", "bundle", gear, "--out", gear.parent / "store")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "Error: " + message.format(gear)
    assert "Traceback" not in done.stderr
    assert not (gear.parent / "store").exists()


def test_the_command_makes_a_store_and_finds_it_damaged_later(gear: Path) -> None:
    out = gear.parent / "store"
    done = command("import", "bundle", gear, "--out", out)
    assert (done.returncode, done.stdout) == (0, f"{out}\n")
    assert command("verify", out).stdout.splitlines()[-1] == "the store is whole"
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    name = max(manifest["files"], key=lambda n: manifest["files"][n]["bytes"])
    content = bytearray((out / name).read_bytes())
    content[-1] ^= 1
    (out / name).write_bytes(bytes(content))
    done = command("verify", out)
    assert (done.returncode, done.stdout) == (3, "")
    expected = manifest["files"][name]["sha256"][:16]
    pattern = (
        rf"Error: {re.escape(str(out / name))}: expected sha256 {expected}\.\.\.; found [0-9a-f]{{16}}\. "
    )
    assert re.fullmatch(pattern + r"Make the store again\.", done.stderr.splitlines()[-1])
