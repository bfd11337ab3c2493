"""Other people's tools from npm, installed once into a folder of the repository that git ignores."""

import fcntl
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def installed(folder: str, packages: Sequence[str]) -> Path:
    """The folder `node_modules` that holds just these packages; they are downloaded if it does not yet.

    Processes that ask at the same time wait for the first. Packages are written with their version, so that what is
    tested against changes by a commit alone.

    Raises:
        RuntimeError: npm is not there or failed, with the end of what it said.
    """
    home = ROOT / folder
    home.mkdir(exist_ok=True)
    stamp = home / "installed.json"
    with (home / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.is_file() or json.loads(stamp.read_text(encoding="utf-8")) != list(packages):
            stamp.unlink(missing_ok=True)
            _install(home, packages)
            stamp.write_text(json.dumps(packages), encoding="utf-8")
    return home / "node_modules"


def _install(home: Path, packages: Sequence[str]) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(f"npm is not installed; it is needed for {', '.join(packages)}")
    shutil.rmtree(home / "node_modules", ignore_errors=True)
    (home / "package-lock.json").unlink(missing_ok=True)
    (home / "package.json").write_text('{"private": true}', encoding="utf-8")
    options = ["--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(
        [npm, "install", *options, *packages],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise RuntimeError(f"npm install {' '.join(packages)} failed in {home.name}:\n{said}")
