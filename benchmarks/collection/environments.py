"""The peers' environments: one each, made for the benchmark only, with torch for the CPU."""

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

from saeinterp_mcp.errors import BadInput

TORCH = "torch==2.13.0"
GPU_STACK = ("nvidia", "cuda", "triton", "vllm", "bitsandbytes")
"""Beginnings of the names of packages that must not be fetched."""


class Environment(NamedTuple):
    """What is installed, in this order."""

    needs: tuple[str, ...]
    """With all their dependencies."""
    alone: tuple[str, ...] = ()
    """With none (`--no-deps`)."""
    removed: tuple[str, ...] = ()
    """Dependencies that break the import and that nothing here uses."""
    shown: tuple[str, ...] = ()
    """Packages whose versions the results name."""


ENVIRONMENTS = {
    # delphi's own dependencies bring vllm and bitsandbytes, a GPU stack; its cache imports the ones named here
    "delphi": Environment(
        needs=(
            TORCH,
            "transformers==5.23.0",
            "accelerate",
            "asyncer",
            "blobfile",
            "datasets",
            "einops",
            "faiss-cpu",
            "jaxtyping",
            "natsort",
            "orjson",
            "safetensors",
            "schedulefree",
            "sentence-transformers",
            "simple-parsing",
        ),
        alone=("eai-delphi==0.1.3", "eai-sparsify==1.3.3"),
        shown=("eai-delphi", "torch", "transformers"),
    ),
    # it holds numpy below 2, for which newer pyarrow is not built; torchvision does not fit every build of torch
    "saedashboard": Environment(
        needs=(TORCH, "sae-dashboard==0.8.0", "pyarrow<22"),
        removed=("torchvision", "torchaudio"),
        shown=("sae-dashboard", "sae-lens", "torch", "transformer-lens", "transformers"),
    ),
}


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there whole."""
    place, wanted = folder / name, ENVIRONMENTS[name]
    python, ready = place / "bin" / "python", place / "ready.json"
    content = json.dumps(wanted)
    if ready.is_file() and ready.read_text(encoding="utf-8") == content:
        return python
    print(f"making the environment {place}: some GB, some minutes", file=sys.stderr)
    venv.create(place, clear=True, with_pip=True)
    pip = [str(python), "-m", "pip", "-qq", "--disable-pip-version-check"]
    refuse_gpu_stack(name, [*pip, "install", *wanted.needs])
    subprocess.run([*pip, "install", *wanted.needs], check=True)
    if wanted.alone:
        subprocess.run([*pip, "install", "--no-deps", *wanted.alone], check=True)
    if wanted.removed:
        subprocess.run([*pip, "uninstall", "--yes", *wanted.removed], check=True)
    ready.write_text(content, encoding="utf-8")
    return python


def refuse_gpu_stack(name: str, install: list[str]) -> None:
    """Resolve first, and stop where a GPU stack would come.

    Raises:
        BadInput: it would.
    """
    done = subprocess.run(
        [*install, "--dry-run", "--report", "-"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    names = sorted(found["metadata"]["name"].lower() for found in json.loads(done.stdout)["install"])
    gpu = [found for found in names if found.startswith(GPU_STACK)]
    if gpu:
        raise BadInput(
            f"the environment {name!r} would take {len(gpu)} packages of a GPU stack ({', '.join(gpu[:3])});"
            " give pip an index with the CPU wheels of torch (PIP_INDEX_URL) and run again"
        )


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of some packages."""
    code = "import importlib.metadata as m, sys; print(*(m.version(name) for name in sys.argv[1:]))"
    done = subprocess.run(
        [str(python), "-c", code, *packages], check=True, capture_output=True, text=True, encoding="utf-8"
    )
    return dict(zip(packages, done.stdout.split(), strict=True))
