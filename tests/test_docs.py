"""Every command in README.md, docs/ and skills/ is run; what cannot be run here is named with the reason."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.validation.config import ValidationRun
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen
from tests.autointerp.running import addresses
from tests.autointerp.scripted_model import knows
from tests.conftest import ROOT
from tests.providers.fake_server import FakeServer, fake_server

TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "skills").rglob("*.md"))]
ELSEWHERE = {
    "make demo": "tests/test_demo.py runs its parts; .ci/run installs from nothing",
    "make test": "this is it",
    'pip install "saeinterp-mcp[pipeline]"': "the distribution is not published yet",
    "saeinterp-pipeline build examples/pycode/run.yaml": "tests/test_example.py",
    "saeinterp-pipeline build examples/loadout/run.yaml": "tests/examples/test_loadout_commands.py, in a copy",
    "make bench": "a benchmark, not a test",
    "python -m benchmarks.validation_planted --store demo-store --write docs/validation.md": "a benchmark, not a test",
}


OTHER_TOOLS = {
    "delphi-run": "delphi/run",
    "delphi-tokenizer": "delphi/tokenizer",
    "neuronpedia-export": "neuronpedia/gemma-2-2b",
    "dashboard-output": "dashboard/runner",
    "activations-jsonl": "jsonl",
}
"""Folders that docs/other-tools.md speaks of, to where small ones of them are."""


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    found = []
    for path in TEXTS:
        for block in blocks(path.read_text(encoding="utf-8"), "sh"):
            found += [
                (path.name, line) for line in block.splitlines() if line.strip() and not line.startswith("#")
            ]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, pycode_store: Path) -> Path:
    """A folder as a reader has it: the demo's store, and the bundle that docs/bundle.md makes."""
    folder = tmp_path_factory.mktemp("reader")
    # of its own: runs and labels lie beside it, and other tests look what is beside theirs
    shutil.copytree(pycode_store, folder / "demo-store", copy_function=os.link)
    (folder / "examples").symlink_to(ROOT / "examples")
    for code in blocks((ROOT / "docs" / "bundle.md").read_text(encoding="utf-8"), "python"):
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    run(folder, "saeinterp-pipeline import bundle my_bundle --out my-store")
    for name, fixture in OTHER_TOOLS.items():
        shutil.copytree(ROOT / "tests" / "fixtures" / fixture, folder / name)
    return folder


@pytest.fixture(scope="module")
def providers() -> Iterator[FakeServer]:
    """Both providers, pretended: what a command asks them is answered by a script."""
    with fake_server(knows) as server:
        yield server


def run(folder: Path, command: str, providers: FakeServer | None = None) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **(addresses(providers) if providers else {})}
    return subprocess.run(
        shlex.split(command),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize(("where", "command"), commands(), ids=lambda v: v[:60])
def test_a_documented_command_runs(where: str, command: str, workplace: Path, providers: FakeServer) -> None:
    if command in ELSEWHERE:
        return
    if "--out my-store" in command:
        command = command.replace("my-store", f"my-store-{where}")
    done = run(workplace, command, providers)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_reason_to_run_elsewhere_is_still_needed() -> None:
    documented = {command for _, command in commands()} | set(
        re.findall(r"`(make \w+)`", (ROOT / "CONTRIBUTING.md").read_text())
    )
    assert set(ELSEWHERE) - documented <= {"make bench"}


def test_the_run_file_of_the_documentation_is_one(tmp_path: Path) -> None:
    (block,) = blocks((ROOT / "docs" / "build.md").read_text(encoding="utf-8"), "yaml")
    path = tmp_path / "run.yaml"
    path.write_text(block, encoding="utf-8")
    run_config = RunConfig.load(path)
    assert [family.name for family in run_config.families] == ["negation", "digits", "depth"]
    path.write_text(block.replace("name: my-model\n", "nme: my-model\n", 1), encoding="utf-8")
    with pytest.raises(BadInput, match="nme: Extra inputs are not permitted"):
        RunConfig.load(path)


def test_the_configs_of_the_validation_page_are_ones(tmp_path: Path) -> None:
    found = blocks((ROOT / "docs" / "validation.md").read_text(encoding="utf-8"), "yaml")
    assert len(found) == 2
    for block in found:
        path = tmp_path / "validate.yaml"
        path.write_text(block, encoding="utf-8")
        assert ValidationRun.load(path).out == tmp_path / "my-store.validation"


def test_every_setting_of_a_validation_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    told = "\n".join(settings_table())
    assert told in text, f"docs/validation.md should hold this table:\n{told}"


def settings_table() -> list[str]:
    """A line of Markdown for every key of a validation's config."""
    lines = ["| key | default | |", "|---|---|---|"]
    for name, field in ValidationRun.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Frozen) and name != "execution":
            inner = section.model_fields.items()
            lines += [_setting(f"{name}.{key}", one.default, one.description) for key, one in inner]
        else:
            default = None if field.is_required() or name == "execution" else field.default
            lines.append(_setting(name, default, field.description))
    return lines


def _setting(name: str, default: object, description: str | None) -> str:
    shown = json.dumps(default, default=str) if default not in (None, ()) else ""
    return f"| `{name}` | {shown} | {' '.join((description or '').split())} |"


def test_links_between_documents_lead_somewhere() -> None:
    for path in [*TEXTS, ROOT / "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize(
    "name",
    ["adding-a-backend.md", "from-autointerp.md", "from-the-data-layer.md", "from-the-storage-guide.md"],
)
def test_the_python_of_a_document_runs_after_its_commands(name: str, workplace: Path) -> None:
    for code in blocks((ROOT / "docs" / name).read_text(encoding="utf-8"), "python"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=workplace,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
