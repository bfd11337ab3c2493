"""The plugin as a person installs it: which store and program its server starts with, and what it says without one."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.faces.planted import sequence_store, set_store
from tests.host.claude_code import converse, environment, run
from tests.host.fake_model import Call, Script

PLUGIN = "saeinterp@saeinterp"
OPTIONS = ["--allowedTools", "mcp__plugin_saeinterp_saeinterp"]


def asking_what_is_served() -> Script:
    (status,) = yield [Call("store_status", {})]
    return ", ".join(store["name"] for store in status.body["stores"])


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What Claude Code reads of a clone of the repository."""
    folder = tmp_path / "clone"
    for name in (".claude-plugin", "packaging", "skills"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / ".mcp.json", folder)
    return folder


def test_a_person_installs_the_plugin_from_a_clone_and_names_the_store(clone: Path, tmp_path: Path) -> None:
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    store = sequence_store(tmp_path)
    variables = environment(home)
    for command in (
        ["plugin", "marketplace", "add", str(clone)],
        ["plugin", "install", PLUGIN, "--config", f"store={store}"],
    ):
        done = run(*command, folder=work, variables=variables)
        assert done.returncode == 0, done.stdout + done.stderr
    session = converse(
        asking_what_is_served(), "What is served?", *OPTIONS, home=home, folder=work, variables={}
    )
    assert session.last_words == "seq"
    assert "saeinterp:investigate" in session.init["slash_commands"]


def test_a_clone_serves_its_own_folder_as_a_project_too(clone: Path, tmp_path: Path) -> None:
    sequence_store(tmp_path).rename(clone / "demo-store")
    session = converse(
        asking_what_is_served(),
        "What is served?",
        *("--allowedTools", "mcp__saeinterp"),
        *("--settings", json.dumps({"enableAllProjectMcpServers": True})),
        home=tmp_path / "home",
        folder=clone,
        variables={},
    )
    assert session.last_words == "seq"
    servers = {server["name"]: server["status"] for server in session.init["mcp_servers"]}
    assert servers == {"saeinterp": "connected"}


def test_with_tool_search_the_model_starts_with_two_tools_and_the_names_of_the_others(tmp_path: Path) -> None:
    session = converse(
        asking_what_is_served(),
        "What is served?",
        *("--plugin-dir", str(ROOT), *OPTIONS),
        home=tmp_path / "home",
        folder=tmp_path,
        variables={"SAEINTERP_STORE": str(sequence_store(tmp_path)), "ENABLE_TOOL_SEARCH": "true"},
    )
    assert set(session.model.tools) == {"store_status", "feature_overview"}
    told = "\n".join(session.model.said_to_it)
    assert "mcp__plugin_saeinterp_saeinterp__family_sweep\n" in told
    assert "Search these tools when asked what a SAE feature or latent means." in told


def test_a_prompt_of_the_server_is_a_command_with_arguments(tmp_path: Path) -> None:
    store = sequence_store(tmp_path)
    session = converse(
        asking_what_is_served(),
        "/mcp__plugin_saeinterp_saeinterp__investigate 3",
        *("--plugin-dir", str(ROOT), *OPTIONS),
        home=tmp_path / "home",
        folder=tmp_path,
        variables={"SAEINTERP_STORE": str(store)},
    )
    (told,) = [text for text in session.model.said_to_it if "feature 3 of the sparse autoencoder" in text]
    assert "{" not in told


def start(clone: Path, folder: Path, *programs: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the plugin's server command as Claude Code does, with stand-ins that print how they were called."""
    for program in programs:
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text('#!/bin/sh\necho "$0" "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    server = json.loads((clone / ".mcp.json").read_text(encoding="utf-8"))["mcpServers"]["saeinterp"]
    known = {"PATH": f"{folder / 'bin'}{os.pathsep}/usr/bin:/bin", "CLAUDE_PROJECT_DIR": str(folder)}
    return subprocess.run(
        [server["command"], *server["args"]],
        cwd=folder,
        env={**known, "CLAUDE_PLUGIN_ROOT": str(clone), **variables},
        capture_output=True,
        encoding="utf-8",
        timeout=20,
        check=False,
    )


def a_store(folder: Path) -> Path:
    """All that the launcher looks for."""
    folder.mkdir()
    (folder / "manifest.json").touch()
    return folder


def test_the_store_is_the_one_named_then_the_environments_then_the_demos(clone: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "saeinterp"
    demo = a_store(clone / "demo-store")
    asked = {"SAEINTERP_PLUGIN_STORE": "/stores/mine", "SAEINTERP_STORE": "/stores/other"}
    assert start(clone, tmp_path, program, **asked).stdout == f"{program} serve --store /stores/mine\n"
    asked["SAEINTERP_PLUGIN_STORE"] = ""
    assert start(clone, tmp_path, program, **asked).stdout == f"{program} serve\n"
    asked["SAEINTERP_PLUGIN_STORE"] = "${user_config.store}"
    assert start(clone, tmp_path, program, **asked).stdout == f"{program} serve\n"
    assert start(clone, tmp_path, program).stdout == f"{program} serve --store {demo}\n"
    here = a_store(tmp_path / "demo-store")
    assert start(clone, tmp_path, program).stdout == f"{program} serve --store {here}\n"


def test_the_program_is_the_clones_own_then_that_on_the_path_then_uv(clone: Path, tmp_path: Path) -> None:
    a_store(tmp_path / "demo-store")
    store = f"serve --store {tmp_path / 'demo-store'}\n"
    uv = tmp_path / "bin" / "uvx"
    assert start(clone, tmp_path, uv).stdout == f"{uv} --quiet --from {clone} saeinterp {store}"
    on_path = tmp_path / "bin" / "saeinterp"
    assert start(clone, tmp_path, on_path).stdout == f"{on_path} {store}"
    own = clone / ".venv" / "bin" / "saeinterp"
    assert start(clone, tmp_path, own).stdout == f"{own} {store}"
    demos = clone / ".venv-demo" / "bin" / "saeinterp"
    assert start(clone, tmp_path, demos).stdout == f"{demos} {store}"


def test_a_store_with_blanks_and_quotes_in_its_name_is_one_argument(clone: Path, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "saeinterp"
    start(clone, tmp_path, program)
    program.write_text('#!/bin/sh\nfor word; do echo "<$word>"; done\n', encoding="utf-8")
    done = start(clone, tmp_path, SAEINTERP_PLUGIN_STORE="/my \"new\" $(touch x) 'store';")
    assert done.stdout == "<serve>\n<--store>\n</my \"new\" $(touch x) 'store';>\n"
    assert not (tmp_path / "x").exists()


def test_without_a_store_or_a_program_it_says_what_to_do(clone: Path, tmp_path: Path) -> None:
    done = start(clone, tmp_path, tmp_path / "bin" / "saeinterp")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "saeinterp: no store. Set the plugin's option 'store', or SAEINTERP_STORE, "
        f"or run 'make demo' in {clone}\n"
    )
    shutil.rmtree(tmp_path / "bin")
    done = start(clone, tmp_path, SAEINTERP_STORE=str(set_store(tmp_path)))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"saeinterp: the program is not installed. Run 'make demo' in {clone}, "
        f"or 'pip install {clone}', or install uv\n"
    )
