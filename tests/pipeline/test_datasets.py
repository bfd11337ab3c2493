import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import TypeAdapter

from pipeline.source_config import DatasetConfig
from pipeline.sources.dataset import Document, content_unit, dataset_files, read_documents
from saeinterp_mcp.errors import BadInput

ROWS = [
    {"text": "def f():\n", "module": "a", "heldout": True, "ids": [5, 6], "file": "a.py"},
    {"text": "π = 3\r\n", "module": None, "heldout": False, "ids": [7], "file": "b.py"},
]
COLUMNS = {"text": "text", "unit": "file", "groups": ["module", "heldout"]}


def config(**fields: Any) -> DatasetConfig:
    parsed: DatasetConfig = TypeAdapter(DatasetConfig).validate_python(fields)
    return parsed


def read(**fields: Any) -> tuple[list[Document], Counter[str]]:
    dropped: Counter[str] = Counter()
    return list(read_documents(config(**fields), dropped)), dropped


def summary(documents: list[Document]) -> list[tuple[Any, ...]]:
    return [(document.text, document.unit, dict(document.groups)) for document in documents]


EXPECTED = [
    ("def f():\n", "a.py", {"module": "a", "heldout": "true"}),
    ("π = 3\r\n", "b.py", {"module": None, "heldout": "false"}),
]


@pytest.fixture
def parquet_path(tmp_path: Path) -> Path:
    path = tmp_path / "documents.parquet"
    pl.DataFrame(ROWS).write_parquet(path)
    return path


def test_a_parquet_file_is_read(parquet_path: Path) -> None:
    documents, _ = read(format="parquet", path=parquet_path, **COLUMNS)
    assert summary(documents) == EXPECTED
    assert documents[1].where == f"{parquet_path} row 1"


def test_token_ids_are_read_in_place_of_text(parquet_path: Path) -> None:
    documents, _ = read(format="parquet", path=parquet_path, token_ids="ids")
    assert [document.token_ids for document in documents] == [[5, 6], [7]]
    assert [document.text for document in documents] == [None, None]


def test_json_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8")
    documents, _ = read(format="jsonl", path=path, **COLUMNS)
    assert summary(documents) == EXPECTED


def test_csv_is_read_with_long_fields_and_line_breaks_inside(tmp_path: Path) -> None:
    path = tmp_path / "documents.csv"
    pl.DataFrame({"text": ["x\n" * 100_000, 'say "a"'], "module": ["a", "b"]}).write_csv(path)
    documents, _ = read(format="csv", path=path, text="text", groups=["module"])
    assert [document.text for document in documents] == ["x\n" * 100_000, 'say "a"']
    assert [document.groups["module"] for document in documents] == ["a", "b"]


def test_a_glob_reads_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, text in (("part-1", "second"), ("part-0", "first")):
        pl.DataFrame({"text": [text]}).write_parquet(tmp_path / f"{name}.parquet")
    documents, _ = read(format="parquet", path=tmp_path / "part-*.parquet", text="text")
    assert [document.text for document in documents] == ["first", "second"]
    files = dataset_files(config(format="parquet", path=tmp_path / "part-*.parquet", text="text"))
    assert list(files) == ["dataset/part-0.parquet", "dataset/part-1.parquet"]


def hugging_face_folder(folder: Path, split: str | None = None) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own imports
        import datasets

    table = datasets.Dataset.from_list(ROWS)
    target = folder / "hf"
    (table if split is None else datasets.DatasetDict({split: table})).save_to_disk(str(target))
    return target


def test_a_folder_of_save_to_disk_is_read(tmp_path: Path) -> None:
    documents, _ = read(format="huggingface", path=hugging_face_folder(tmp_path), **COLUMNS)
    assert summary(documents) == EXPECTED


def test_a_hub_dataset_is_streamed_at_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own imports
        import datasets

    def stream(name: str, subset: str | None, *, split: str, revision: str, streaming: bool) -> Any:
        assert (name, subset, split, revision, streaming) == ("some/texts", None, "train", "0123abc", True)
        return datasets.Dataset.from_list(ROWS).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", stream)
    fields = {"format": "huggingface", "hub": "some/texts", "split": "train", "revision": "0123abc"}
    documents, _ = read(**fields, **COLUMNS)
    assert summary(documents) == EXPECTED
    assert dataset_files(config(**fields, **COLUMNS)) == {}


def test_a_split_is_chosen_by_name_and_never_guessed(tmp_path: Path) -> None:
    folder = hugging_face_folder(tmp_path, split="test")
    documents, _ = read(format="huggingface", path=folder, split="test", **COLUMNS)
    assert summary(documents) == EXPECTED
    with pytest.raises(BadInput) as error:
        read(format="huggingface", path=folder, **COLUMNS)
    assert str(error.value) == f"dataset: {folder} has splits; give dataset.split, one of test"


def source_folder(folder: Path) -> Path:
    for name, content in (
        ("pkg/a.py", b"import os\r\n"),
        ("pkg/inner/b.py", b"import os\r\n"),
        ("top.py", b"x = 1\n"),
        ("pkg/latin.py", b"\xe4\xf6"),
        ("pkg/test_a.py", b"assert True\n"),
        ("notes.txt", b"not asked for"),
    ):
        path = folder / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder / "src"


def test_a_folder_of_files_is_read_with_groups_from_its_path(tmp_path: Path) -> None:
    documents, dropped = read(
        format="folder",
        path=source_folder(tmp_path),
        include=["**/*.py"],
        exclude=["**/test_*.py"],
        path_parts={"package": 0, "sub": 1, "file": -1},
    )
    assert summary(documents) == [
        ("import os\r\n", content_unit("import os\r\n"), {"package": "pkg", "sub": "a.py", "file": "a.py"}),
        ("import os\r\n", content_unit("import os\r\n"), {"package": "pkg", "sub": "inner", "file": "b.py"}),
        ("x = 1\n", content_unit("x = 1\n"), {"package": "top.py", "sub": None, "file": "top.py"}),
    ]
    assert dropped == {"not UTF-8": 1}


def test_the_path_can_be_the_unit_of_a_file(tmp_path: Path) -> None:
    documents, _ = read(format="folder", path=source_folder(tmp_path), include=["pkg/**/?.py"], unit="path")
    assert [document.unit for document in documents] == ["pkg/a.py", "pkg/inner/b.py"]


def test_equal_documents_are_one_unit_unless_a_column_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "twice.parquet"
    pl.DataFrame({"text": ["same", "same", "other", None]}).write_parquet(path)
    documents, dropped = read(format="parquet", path=path, text="text")
    assert documents[0].unit == documents[1].unit != documents[2].unit
    assert dropped == {"no content": 1}


def test_a_missing_column_is_refused_with_those_there_are(parquet_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        read(format="parquet", path=parquet_path, text="txt")
    assert str(error.value) == f"{parquet_path} has no column 'txt'; nearest: 'text'"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        read(format="csv", path=tmp_path / "none.csv", text="text")
    assert str(error.value) == f"dataset: there is no file {tmp_path / 'none.csv'}"


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.parquet"
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(BadInput, match=r"no\.parquet is not a Parquet file: "):
        read(format="parquet", path=path, text="text")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "{path} line 1 is not JSON in UTF-8: "),
        ("[1]", "{path} line 1 must be a JSON object, found list"),
        ('{"other": 1}', "{path} line 1 has no column 'text'; there are: 'other'"),
        ('{"text": 3}', "{path} line 1: column 'text' must hold text, found int"),
    ],
)
def test_a_bad_line_of_json_is_refused_with_its_number(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(BadInput) as error:
        read(format="jsonl", path=path, text="text")
    assert str(error.value).startswith(message.format(path=path))


def test_ids_that_are_not_lists_of_integers_are_refused(parquet_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        read(format="parquet", path=parquet_path, token_ids="module")
    expected = f"{parquet_path} row 0: column 'module' must hold lists of token ids, integers from 0"
    assert str(error.value) == expected


def test_an_empty_unit_is_refused(parquet_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        read(format="parquet", path=parquet_path, text="text", unit="module")
    assert str(error.value) == f"{parquet_path} row 1: column 'module', the unit, is empty"


def test_a_ragged_csv_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("text,module\na,b\nc\n", encoding="utf-8")
    with pytest.raises(BadInput) as error:
        read(format="csv", path=path, text="text", groups=["module"])
    assert str(error.value) == f"{path} line 3: not as many fields as the header names"


def test_a_csv_with_token_ids_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    path.write_text("ids\n1\n", encoding="utf-8")
    with pytest.raises(BadInput) as error:
        read(format="csv", path=path, token_ids="ids")
    expected = f"{path}: a CSV file cannot hold lists of token ids; give text, or use Parquet or JSON lines"
    assert str(error.value) == expected


def test_a_folder_that_save_to_disk_did_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        read(format="huggingface", path=tmp_path, text="text")
    assert str(error.value) == f"dataset: {tmp_path} is not a folder written by datasets' save_to_disk"


def test_globs_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    folder = source_folder(tmp_path)
    with pytest.raises(BadInput) as error:
        read(format="folder", path=folder, include=["*.rs", "*.go"])
    assert str(error.value) == f"dataset: no file in {folder} fits *.rs, *.go"
    with pytest.raises(BadInput) as error:
        read(format="folder", path=tmp_path / "none", include=["*"])
    assert str(error.value) == f"dataset: there is no folder {tmp_path / 'none'}"
