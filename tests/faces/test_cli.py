"""The command line: exit codes, streams, JSON and tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import saeinterp_mcp.faces.cli as cli
from saeinterp_mcp.config import VERSION
from saeinterp_mcp.faces.arguments import commands
from tests.faces.conftest import run_cli
from tests.faces.made_up import PNG, made_up_entries

SWEEP = ("family-sweep", "0", "--family", "fam")


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command line in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["saeinterp", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code is None or isinstance(left.value.code, int)
    return left.value.code or 0


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "commands", made_up_entries)


def test_an_answer_has_exit_code_0_and_nothing_on_stderr(seq: Path) -> None:
    done = run_cli(*SWEEP, "--store", str(seq))
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.splitlines()[0]
        == json.loads(run_cli(*SWEEP, "--store", str(seq), "--json").stdout)["summary"]
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("family-sweep", "0", "--famly", "fam"), "No such option: --famly"),
        (("family-sweep", "0"), "Missing option '--family'"),
        (("family-sweep", "x", "--family", "fam"), "Invalid value"),
        (("family-swep", "0"), "No such command"),
        ((*SWEEP, "--min-n", "0"), "Error: family_sweep: min_n: Input should be greater than or equal to 1"),
        (
            ("family-sweep", "9", "--family", "fam"),
            "Error: feature 9 is not in store 'seq', which has 0 to 3",
        ),
        ((*SWEEP, "--where", "modul=x"), "Error: "),
    ],
)
def test_a_wrong_call_has_exit_code_2_and_says_why_on_stderr(
    seq: Path,
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SAEINTERP_STORE", str(seq))
    assert run_here(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err


def test_foreign_data_have_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no store", encoding="utf-8")
    done = run_cli(*SWEEP, "--store", str(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"Error: {tmp_path}: expected a store with manifest.json; found notes.txt.")


@pytest.mark.usefixtures("made_up")
def test_data_found_damaged_during_a_call_have_exit_code_3(
    seq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_here(monkeypatch, "damaged", "--store", str(seq)) == 3


@pytest.mark.usefixtures("made_up")
def test_a_bug_of_ours_falls_through_so_that_python_prints_it_and_exits_1(
    seq: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["saeinterp", "broken", "--store", str(seq)])
    with pytest.raises(RuntimeError, match="secret of the server"):
        cli.main()


def test_a_process_with_a_bug_exits_1_with_its_traceback(seq: Path) -> None:
    code = (
        "import saeinterp_mcp.faces.cli as cli; from tests.faces.made_up import made_up_entries; "
        "import sys; cli.commands = made_up_entries; "
        f"sys.argv = ['saeinterp', 'broken', '--store', {str(seq)!r}]; cli.main()"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, encoding="utf-8", check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Traceback")
    assert "RuntimeError: secret of the server" in done.stderr


def test_without_a_store_the_message_says_how_to_name_one() -> None:
    done = run_cli(*SWEEP)
    assert done.returncode == 2
    assert done.stderr == "Error: no store; name one with --store PATH, or set SAEINTERP_STORE\n"


def test_the_environment_names_stores_and_the_option_picks_among_them(seq: Path, gear: Path) -> None:
    stores = f"{seq}:mine={gear}"
    picked = json.loads(
        run_cli("weapon-sweep", "0", "--store", "mine", "--json", SAEINTERP_STORE=stores).stdout
    )
    assert (picked["store"], picked["by"]) == ("mine", "weapon")
    unsure = run_cli("weapon-sweep", "0", SAEINTERP_STORE=stores)
    message = "Error: several stores are served; say which with store: seq, mine\n"
    assert (unsure.returncode, unsure.stderr) == (2, message)
    status = json.loads(run_cli("status", "--store", str(seq), "--store", f"g={gear}", "--json").stdout)
    assert [store["name"] for store in status["stores"]] == ["seq", "g"]


@pytest.mark.usefixtures("made_up")
def test_a_list_is_a_repeated_option_and_a_picture_goes_to_a_file(
    seq: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("many-kinds", "3", "--names", "a", "--names", "b", "--share", "0.5", "--which", "two", "--exact")
    assert run_here(monkeypatch, *given, "--store", str(seq)) == 0
    assert capsys.readouterr().out.startswith("3 ['a', 'b'] 0.5 two True\n")
    drawn = tmp_path / "a.png"
    assert run_here(monkeypatch, "made", "pictured", "0", "--image", str(drawn), "--store", str(seq)) == 0
    assert drawn.read_bytes() == PNG
    missing = str(tmp_path / "no" / "a.png")
    assert run_here(monkeypatch, "made", "pictured", "0", "--image", missing, "--store", str(seq)) == 2


def test_tokens_that_look_like_markup_or_escapes_are_printed_as_they_are(seq: Path) -> None:
    printed = run_cli(
        "examples", "2", "--limit", "30", "--store", str(seq), FORCE_COLOR="1", COLUMNS="250"
    ).stdout
    assert "[/red]" in printed
    assert "\\u{1b}[31mred\\u{202e}" in printed
    assert "\x1b[31mred" not in printed


def test_every_operation_is_a_command_with_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for entry in commands():
        assert run_here(monkeypatch, *entry.command.split(), "--help") == 0
        shown = capsys.readouterr().out
        for name in entry.arguments.model_fields:
            assert name == "feature" or f"--{name.replace('_', '-')}" in shown, (
                f"{entry.command} lacks --{name}"
            )


def test_the_version_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"saeinterp {VERSION}\n"


def test_the_demo_asks_a_real_server_and_ends_with_how_to_add_it(seq: Path) -> None:
    done = run_cli("demo", "--store", str(seq), "--feature", "0")
    assert done.returncode == 0, done.stderr
    calls = [line for line in done.stdout.splitlines() if line.endswith("─") and " ms " in line]
    assert [line.split("(")[0] for line in calls][:3] == [
        "store_status",
        "features_search",
        "feature_overview",
    ]
    assert any("family='fam'" in line for line in calls)
    last = done.stdout.splitlines()[-1]
    assert last == f"claude mcp add saeinterp -- {sys.executable} -m saeinterp_mcp serve --store {seq}"
