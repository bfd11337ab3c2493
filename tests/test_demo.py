"""`saeinterp demo`: a real client, a real server, the shipped store."""

import subprocess
import sys
from pathlib import Path


def test_the_demo_looks_at_a_feature_and_says_how_to_add_the_server(pycode_store: Path) -> None:
    command = [sys.executable, "-m", "saeinterp_mcp", "demo", "--store", str(pycode_store)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    asked = [
        "store_status",
        "features_search",
        "feature_overview",
        "family_sweep",
        "family_heatmap",
        "group_sweep",
        "decoder_influence",
    ]
    for tool in asked:
        assert f"\n{tool}(" in done.stdout, tool
    assert "bug of saeinterp" not in done.stdout
    last = done.stdout.rstrip().splitlines()[-1]
    assert (
        last == f"claude mcp add saeinterp -- {sys.executable} -m saeinterp_mcp serve --store {pycode_store}"
    )


def test_without_a_store_the_demo_says_how_to_make_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "saeinterp_mcp", "demo", "--store", "nowhere"]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    assert "saeinterp-pipeline import bundle" in done.stderr
    assert done.stderr.rstrip().endswith("--out nowhere")
