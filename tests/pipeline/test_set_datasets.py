import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.set_config import SetDatasetConfig
from pipeline.sources.set_dataset import TokenSet, default_unit, read_sets
from saeinterp_mcp.errors import BadInput
from tests.pipeline.set_world import N_VIEWS, SetRun, make_world, write_set_run

VOCAB = {"swim_3": 0, "swim_6": 1, "<NULL>": 2, "comeback": 3, "<PAD>": 4}
WEAPON_VOCAB = {"weapon_id_40": 0, "weapon_id_41": 1}


def dataset(folder: Path, **section: Any) -> SetDatasetConfig:
    config: SetDatasetConfig = TypeAdapter(SetDatasetConfig).validate_python(section)
    return config.resolved(folder)


def parquet(folder: Path, columns: dict[str, Any], **section: Any) -> list[TokenSet]:
    pl.DataFrame(columns, strict=False).write_parquet(folder / "sets.parquet")
    return list(read_sets(dataset(folder, format="parquet", path="sets.parquet", **section)))


def csv(folder: Path, text: str, **section: Any) -> list[TokenSet]:
    (folder / "vocab.json").write_text(json.dumps(VOCAB), encoding="utf-8")
    (folder / "weapons.json").write_text(json.dumps(WEAPON_VOCAB), encoding="utf-8")
    (folder / "data.csv").write_text(text, encoding="utf-8")
    given = {"vocab": "vocab.json", "weapon_vocab": "weapons.json"} | section
    return list(read_sets(dataset(folder, format="tokenized_csv", path="data.csv", **given)))


def test_a_token_counts_once_and_groups_become_text(tmp_path: Path) -> None:
    columns = {
        "tokens": [["b", "a", "b"], []],
        "weapon": ["brush", None],
        "win": [True, False],
        "rank": [3, 4],
    }
    first, second = parquet(tmp_path, columns, groups=["weapon", "win", "rank"])
    assert first.tokens == ["b", "a"]
    assert first.groups == {"weapon": "brush", "win": "true", "rank": "3"}
    assert second.tokens == []
    assert second.groups["weapon"] is None


def test_duplicates_are_one_unit_and_another_weapon_is_not_a_duplicate(tmp_path: Path) -> None:
    columns = {
        "tokens": [["a", "b"], ["b", "a"], ["a", "b"], ["a"]],
        "weapon": ["brush", "brush", "roller", "brush"],
    }
    units = [found.unit for found in parquet(tmp_path, columns, groups=["weapon"])]
    assert units[0] == units[1]
    assert len(set(units)) == 3
    assert default_unit(["a"], {"weapon": None}) != default_unit(["a", "weapon="], {})


def test_a_column_can_say_what_is_independent(tmp_path: Path) -> None:
    found = parquet(
        tmp_path, {"abilities": [["a"], ["b"]], "player": [7, 7]}, tokens="abilities", unit="player"
    )
    assert [token_set.unit for token_set in found] == ["7", "7"]


@pytest.mark.parametrize("separator", ["\t", ","])
def test_the_seeds_table_is_read_with_either_separator(tmp_path: Path, separator: str) -> None:
    quote = '"' if separator == "," else ""
    rows = [f"{quote}[1, 0, 2]{quote}{separator}1", f"{quote}[]{quote}{separator}0"]
    found = csv(tmp_path, f"ability_tags{separator}weapon_id\n" + "\n".join(rows) + "\n")
    assert [token_set.tokens for token_set in found] == [["swim_6", "swim_3"], []]
    assert [token_set.groups for token_set in found] == [
        {"weapon": "weapon_id_41"},
        {"weapon": "weapon_id_40"},
    ]


def test_weapons_without_a_vocabulary_are_called_by_their_ids(tmp_path: Path) -> None:
    found = csv(
        tmp_path, "ability_tags\tweapon_id\tmode\n[3]\t17\tzones\n", weapon_vocab=None, groups=["mode"]
    )
    assert found[0].groups == {"weapon": "17", "mode": "zones"}


@pytest.mark.parametrize(
    ("columns", "section", "message"),
    [
        ({"tokens": ["a b"]}, {}, "column 'tokens' must hold lists of strings, found string"),
        ({"tokens": [[1]]}, {}, "row 0: column 'tokens' must hold lists of strings, found [1]"),
        ({"tokens": [["a"], None]}, {}, "row 1: column 'tokens' must hold lists of strings, found None"),
        ({"tokens": [["a"]]}, {"groups": ["wepon"]}, "has no column 'wepon'; there are: 'tokens'"),
        ({"tokens": [["a"]], "u": [None]}, {"unit": "u"}, "row 0: column 'u', the unit, is empty"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    columns: dict[str, Any], section: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput) as error:
        parquet(tmp_path, columns, **section)
    assert str(error.value).endswith(message.replace("found string", "found large_string"))
    assert str(error.value).startswith(str(tmp_path / "sets.parquet"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "ability_tags\tweapon_id\n[9]\t0\n",
            "line 2: id 9 is not in VOCAB, which has 0 to 4; give the vocabulary that the data were made with",
        ),
        (
            "ability_tags\tweapon_id\nswim\t0\n",
            "line 2: tokens must be a JSON list of ids, such as [3, 17], found 'swim'",
        ),
        (
            "ability_tags\tweapon_id\n[1]\tbrush\n",
            "line 2: column 'weapon_id' must hold the weapon's id, a number",
        ),
        ("ability_tags\tweapon_id\n[1]\n", "line 2: not as many fields as the header names"),
        ("tags\tweapon_id\n[1]\t0\n", " has no column 'ability_tags'; nearest: 'tags'"),
        ("", " has no column 'ability_tags'; there are none"),
    ],
)
def test_seed_tables_that_do_not_fit_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        csv(tmp_path, text)
    assert message.replace("VOCAB", str(tmp_path / "vocab.json")) in str(error.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"groups": ["view"]}, "a group cannot be called 'view'; rename the column"),
        ({"groups": ["a", "a"]}, "group 'a' is listed twice"),
        (
            {"groups": ["weapon"], "null_samples": "wepon"},
            "null_samples names no group: 'wepon'; nearest: 'weapon'",
        ),
        ({"groups": ["weapon class"]}, "String should match pattern"),
    ],
)
def test_sections_that_do_not_fit_are_refused(section: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=message):
        dataset(tmp_path, format="parquet", path="sets.parquet", **section)


def drawn(run: SetRun, **changed: Any) -> list[dict[str, Any]]:
    folder = run.build(until="draw_samples", **changed)["draw_samples"]
    rows: list[dict[str, Any]] = pq.read_table(folder / "samples.parquet").to_pylist()
    return rows


@pytest.fixture
def run(tmp_path: Path) -> SetRun:
    return write_set_run(tmp_path, make_world(n_builds=20))


def test_every_set_is_there_whole_and_in_parts_of_its_unit(run: SetRun) -> None:
    rows = drawn(run)
    builds = pl.read_parquet(run.folder / "builds.parquet")
    assert len(rows) == 20 * (1 + N_VIEWS) + 4
    for index, (tokens, weapon) in enumerate(builds.iter_rows()):
        mine = [row for row in rows if row["set"] == index]
        assert [row["view"] for row in mine] == ["full"] + ["partial"] * N_VIEWS
        assert mine[0]["tokens"] == tokens
        assert all(set(row["tokens"]) < set(tokens) or not tokens for row in mine[1:])
        assert {row["unit"] for row in mine} == {default_unit(tokens, {"weapon": weapon})}
        assert {row["null_sample"] for row in mine} == {"no"}


def test_null_samples_are_one_for_each_value(run: SetRun) -> None:
    null = [row for row in drawn(run) if row["null_sample"] == "yes"]
    assert null == [
        {"tokens": [], "unit": f"null:{w}", "weapon": w, "view": None, "null_sample": "yes", "set": None}
        for w in ["Splash-o-matic", "brush", "charger", "roller"]
    ]


def test_a_set_keeps_its_views_when_others_are_left_out(run: SetRun) -> None:
    rows = drawn(run)
    section = run.sections["dataset"] | {"max_sets": 5}
    fewer = drawn(run, dataset=section)
    assert [row for row in fewer if row["set"] is not None] == rows[: 5 * (1 + N_VIEWS)]
    assert "draw_samples: 20 in, 5 kept, 15 dropped" in "\n".join(run.said.lines)


def test_equal_sets_have_views_of_their_own(run: SetRun) -> None:
    same = {"tokens": [["a", "b", "c", "d", "e"]] * 8, "weapon": ["brush"] * 8}
    pl.DataFrame(same).write_parquet(run.folder / "builds.parquet")
    views = [tuple(row["tokens"]) for row in drawn(run) if row["view"] == "partial"]
    assert len({tuple(views[i : i + N_VIEWS]) for i in range(0, len(views), N_VIEWS)}) > 4


def test_without_views_and_null_samples_a_set_is_a_sample(run: SetRun) -> None:
    rows = drawn(run, dataset={"format": "parquet", "path": "builds.parquet", "groups": ["weapon"]})
    assert len(rows) == 20
    assert set(rows[0]) == {"tokens", "unit", "weapon", "set"}


def test_views_alone_can_be_asked_for(run: SetRun) -> None:
    rows = drawn(run, dataset=run.sections["dataset"] | {"views": {"n": 2, "keep_full": False, "seed": 3}})
    assert {row["view"] for row in rows} == {"partial", None}
    assert len(rows) == 20 * 2 + 4
