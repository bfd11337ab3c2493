"""One world under test: its bundle, the seed's formats and our store, made where they are missing."""

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.storage.findings import Build, load
from benchmarks.storage.seed_layouts import Chosen, SeedReader, read_chosen, write_seed_layouts
from benchmarks.storage.worlds import World
from benchmarks.storage.write_world import need_disk, write_world
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store

WORKERS = 2
MAX_MEMORY_GB = 1.0
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True, eq=False)
class Bench:
    """A world in a folder; everything about it is made once and kept."""

    world: World
    folder: Path

    @property
    def name(self) -> str:
        """Of the world, with its scale."""
        return self.world.folder

    @property
    def bundle(self) -> Path:
        """The world as a bundle."""
        return self.folder / f"{self.name}.bundle"

    @property
    def seed_folder(self) -> Path:
        """The world in the seed's formats."""
        return self.folder / f"{self.name}.seed"

    @property
    def store_folder(self) -> Path:
        """The world as our store."""
        return self.folder / f"{self.name}.store"

    def prepare(self, with_seed: bool = True) -> None:
        """Make what is missing."""
        if not self.bundle.exists():
            need_disk(self.folder, self.world, "bundle")
            write_world(self.world, self.bundle, WORKERS)
        if with_seed and not self.seed_folder.exists():
            write_seed_layouts(self.world, self.bundle, self.seed_folder)
        if not self.store_folder.exists():
            need_disk(self.folder, self.world, "store", "while building")
            build = build_store(self.name, self.bundle, self.store_folder)
            (self.folder / f"{self.name}.build.json").write_text(build.model_dump_json(), encoding="utf-8")

    @cached_property
    def store(self) -> Store:
        """Our store, open."""
        return open_store(self.store_folder)

    @cached_property
    def chosen(self) -> Chosen:
        """The features that are timed."""
        return read_chosen(self.seed_folder)

    @cached_property
    def seed(self) -> SeedReader:
        """The seed's reader."""
        return SeedReader(self.seed_folder)

    @cached_property
    def build(self) -> Build | None:
        """What making the store took, where it was measured."""
        path = self.folder / f"{self.name}.build.json"
        return Build.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None

    @property
    def heatmap_families(self) -> tuple[str, str]:
        """Two families whose levels meet, about ten each."""
        return ("ink_saver_main", "run_speed_up") if self.world.kind == "set" else ("tone", "depth")

    @property
    def primary_group(self) -> str:
        """The group that effects are adjusted for."""
        return "weapon" if self.world.kind == "set" else "genre"


def build_store(name: str, bundle: Path, out: Path) -> Build:
    """Import a bundle as a user does, in a child process, watching its memory."""
    command = [sys.executable, "-m", "pipeline", "import", "bundle", str(bundle), "--out", str(out)]
    command += ["--workers", str(WORKERS), "--max-memory", f"{MAX_MEMORY_GB:g}"]
    before, started, used = load(), time.monotonic(), _cpu_of_children()
    largest = together = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        while child.poll() is None:
            anonymous = [anonymous_bytes(pid) for pid in process_tree(child.pid)]
            largest, together = max([largest, *anonymous]), max(together, sum(anonymous))
            time.sleep(SAMPLE_SECONDS)
    seconds, cpu_seconds = time.monotonic() - started, _cpu_of_children() - used
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    manifest = open_store(out).manifest
    return Build(
        world=name,
        n_activations=manifest.n_activations,
        bundle_bytes=sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file()),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        stages=stage_seconds(out),
        peak_anonymous=largest,
        peak_anonymous_total=together,
        workers=WORKERS,
        max_memory_gb=MAX_MEMORY_GB,
        load=(before, load()),
    )


def _cpu_of_children() -> float:
    """CPU seconds of every child that has ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def stage_seconds(store: Path) -> dict[str, float]:
    """Seconds by stage, from the build log."""
    log = json.loads((store / "build_log.json").read_text(encoding="utf-8"))
    entries = log if isinstance(log, list) else log["stages"]
    return {e["stage"]: float(e["seconds"]) for e in entries if "seconds" in e}


def process_tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            except (OSError, IndexError):  # it has ended meanwhile
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += parents.get(pid, [])
    return found


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process: what it holds beside files."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("RssAnon:")), None)
    return int(line.split()[1]) * 1024 if line else 0


def files_of_array(store: Path, *names: str) -> list[Path]:
    """Chunk files of some arrays of a store."""
    return [path for name in names for path in sorted((store / name / "c").rglob("*")) if path.is_file()]
