"""The files that hosts and catalogues read are valid, agree with each other, and hold what they promise."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from saeinterp_mcp.config import VERSION
from tests.conftest import ROOT
from tests.faces.planted import sequence_store
from tests.host.claude_code import environment, run, tools

PACKAGING = ROOT / "packaging"
SERVER_NAME = re.compile(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+")


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def mcpb(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(tools() / ".bin" / "mcpb"), *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MCP bundle, packed as a maintainer packs it."""
    out = tmp_path_factory.mktemp("mcpb") / "saeinterp.mcpb"
    command = [sys.executable, str(PACKAGING / "make_mcpb.py"), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out


def test_every_file_has_the_version_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    server = read(PACKAGING / "server.json")
    versions = {
        "the installed distribution": VERSION,
        "plugin.json": read(ROOT / ".claude-plugin" / "plugin.json")["version"],
        "manifest.json": read(PACKAGING / "manifest.json")["version"],
        "server.json": server["version"],
        "server.json, its package": server["packages"][0]["version"],
    }
    versions |= {
        f"marketplace.json, {plugin['name']}": plugin["version"]
        for plugin in read(ROOT / ".claude-plugin" / "marketplace.json")["plugins"]
        if "version" in plugin
    }
    assert versions == dict.fromkeys(versions, project["version"])


def test_claude_code_finds_nothing_wrong_with_the_plugin(tmp_path: Path) -> None:
    done = run("plugin", "validate", str(ROOT), "--strict", folder=tmp_path, variables=environment(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mcpServers: saeinterp stdio" in done.stdout
    assert "saeinterp:investigate" in done.stdout


def test_a_wrong_plugin_is_found_wrong(tmp_path: Path) -> None:
    manifest = {**read(ROOT / ".claude-plugin" / "plugin.json"), "verison": "0.1.0"}
    (tmp_path / ".claude-plugin").mkdir()
    (tmp_path / ".claude-plugin" / "plugin.json").write_text(json.dumps(manifest), encoding="utf-8")
    place = str(tmp_path)
    done = run(
        "plugin", "validate", place, "--strict", folder=tmp_path, variables=environment(tmp_path / "h")
    )
    assert done.returncode == 1
    assert "verison" in done.stdout


def test_the_manifest_of_the_mcp_bundle_is_valid() -> None:
    done = mcpb("validate", str(PACKAGING / "manifest.json"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_mcp_bundle_holds_a_server_that_starts(bundle: Path, tmp_path: Path) -> None:
    unpacked = mcpb("unpack", str(bundle), str(tmp_path / "unpacked"))
    assert unpacked.returncode == 0, unpacked.stdout + unpacked.stderr
    names = zipfile.ZipFile(bundle).namelist()
    manifest = read(tmp_path / "unpacked" / "manifest.json")
    assert {"manifest.json", "pyproject.toml", "skills/investigate/SKILL.md"} <= set(names)
    assert manifest["server"]["entry_point"] in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/")) or "__pycache__" in name]
    # what `uv run saeinterp serve` runs once uv has installed the dependencies that are installed here
    program = "from saeinterp_mcp.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "status", "--store", str(sequence_store(tmp_path)), "--json"],
        cwd=tmp_path / "unpacked",
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path / "unpacked")},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["operation"] == "store_status"


def test_the_same_files_make_the_same_bundle(bundle: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.mcpb"
    subprocess.run([sys.executable, str(PACKAGING / "make_mcpb.py"), str(again)], check=True)
    assert again.read_bytes() == bundle.read_bytes()


def test_the_registry_entry_keeps_the_registrys_rules() -> None:
    """Those of the schema it names (2025-12-11), which is not shipped in a package that the tests need anyway."""
    entry = read(PACKAGING / "server.json")
    assert entry["$schema"].endswith("/schemas/2025-12-11/server.schema.json")
    assert SERVER_NAME.fullmatch(entry["name"])
    assert 1 <= len(entry["description"]) <= 100
    assert 1 <= len(entry["title"]) <= 100
    (package,) = entry["packages"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (package["registryType"], package["identifier"]) == ("pypi", project["name"])
    assert package["transport"] == {"type": "stdio"}
    assert package["identifier"] in project["scripts"], "uvx runs the program named as the distribution"
    for argument in package["packageArguments"]:
        assert argument["type"] in ("positional", "named")
    for variable in package["environmentVariables"]:
        assert set(variable) <= {"name", "description", "format", "isRequired"}
        assert variable["name"] in (ROOT / "saeinterp_mcp" / "config.py").read_text(encoding="utf-8")


def test_the_readme_proves_whose_the_registry_entry_is() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"<!-- mcp-name: {read(PACKAGING / 'server.json')['name']} -->" in readme
