"""Files are whole or not there, and hold nothing that depends on when they were written."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.labels.exchange.files import lines_of, write_whole
from saeinterp_mcp.labels.exchange.records import BadLine


def test_a_write_that_breaks_off_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    def breaking() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    path = tmp_path / "labels.jsonl"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, breaking())
    assert [p.name for p in tmp_path.iterdir()] == ["labels.jsonl"]
    assert path.read_bytes() == b"before"
    assert write_whole(path, [b"a", b"fter"]) == 5
    assert path.read_bytes() == b"after"


def test_a_packed_file_holds_neither_time_nor_name(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl.gz"
    write_whole(path, [b"a\n", b"b\n"])
    packed = path.read_bytes()
    assert (packed[:4], packed[4:8]) == (b"\x1f\x8b\x08\x00", bytes(4))
    assert gzip.decompress(packed) == b"a\nb\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"labels\.jsonl cannot be written: No such file or directory"):
        write_whole(tmp_path / "none" / "labels.jsonl", [b"a"])


def test_a_line_that_is_too_long_is_bad_and_the_next_one_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"first\n\n" + b"x" * (3 << 20) + b"\nlast")
    found = [(where, line if isinstance(line, bytes) else line.why) for where, line in lines_of(path)]
    assert found == [("line 1", b"first\n"), ("line 3", "longer than 1048576 bytes"), ("line 4", b"last")]
    assert isinstance(next(line for where, line in lines_of(path) if where == "line 3"), BadLine)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no file"):
        list(lines_of(tmp_path))
