"""One run of one contender: a process of its own, its CPU seconds, and its memory as seen from outside."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.collection.records import Lap, Report, Trial
from benchmarks.collection.stopwatch import anonymous_mb
from benchmarks.collection.workload import EXAMPLE, Workload
from saeinterp_mcp.errors import BadInput

SAMPLE_SECONDS = 0.01
ROOT = Path(__file__).parents[2]


class Contender(NamedTuple):
    """Something that collects activations."""

    title: str
    """What the table calls it."""
    module: str
    environment: str | None = None
    """Name in `environments.py`; None is ours."""
    arguments: tuple[str, ...] = ()
    once: bool = False
    """Whether one run, with one thread, is enough beside the repeats of the others."""


CONTENDERS = {
    "ours": Contender("saeinterp, Parquet written", "run_ours"),
    "delphi": Contender("delphi, safetensors written", "run_delphi", "delphi"),
    "saedashboard": Contender("SAEDashboard, activations only", "run_saedashboard", "saedashboard"),
    "saedashboard whole": Contender(
        "SAEDashboard, with its dashboards", "run_saedashboard", "saedashboard", ("--whole",), once=True
    ),
}


def run_trial(
    name: str, python: Path, workload: Workload, threads: int, out: Path, extra: tuple[str, ...] = ()
) -> Trial:
    """Run a contender once; its files stay in `out`, which is emptied first.

    Raises:
        BadInput: its runner failed; the message ends with what it last said.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    contender = CONTENDERS[name]
    command = [str(python), "-m", f"benchmarks.collection.{contender.module}", *contender.arguments, *extra]
    command += ["--work", str(workload.folder), "--out", str(out), "--threads", str(threads)]
    command += ["--model", str(EXAMPLE / "model"), "--sae", str(EXAMPLE / "sae")]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with open(out / "log.txt", "w", encoding="utf-8") as log:
        process, peak_mb, status = watch(command, environment, log.fileno())
    if status:
        said = (out / "log.txt").read_text(encoding="utf-8").strip().splitlines()[-8:]
        raise BadInput(f"{contender.module} failed with {threads} threads:\n" + "\n".join(said))
    report = Report.model_validate_json((out / "report.json").read_text(encoding="utf-8"))
    return Trial(contender=name, threads=threads, process=process, peak_mb=peak_mb, report=report)


def watch(command: list[str], environment: dict[str, str], log: int) -> tuple[Lap, float, int]:
    """Run a command to its end: its times, the peak of its anonymous memory, its exit status."""
    started = time.perf_counter()
    child = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    peak_mb = 0.0
    ended, status, used = 0, 0, None
    while not ended:
        peak_mb = max(peak_mb, anonymous_mb(child.pid))
        ended, status, used = os.wait4(child.pid, os.WNOHANG)
        if not ended:
            time.sleep(SAMPLE_SECONDS)
    assert used is not None, "the loop ends with the child's usage"
    child.returncode = os.waitstatus_to_exitcode(status)  # Popen did not see it end
    lap = Lap(wall_seconds=time.perf_counter() - started, cpu_seconds=used.ru_utime + used.ru_stime)
    return lap, peak_mb, child.returncode


def our_python() -> Path:
    """The interpreter of this environment."""
    return Path(sys.executable)
