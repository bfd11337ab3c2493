"""What a measurement says: figure, target, held or missed."""

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from saeinterp_mcp.frozen import Frozen


class Finding(Frozen):
    """One measured figure beside its target."""

    target: int
    """Number of the target (reference, section 12), 1 to 17."""
    world: str
    case: str
    """What was asked: `warm, 100,335 activations`."""
    measured: float | None
    """None for what is not built or could not be measured here; `how` says why."""
    limit: float | None
    """None for a figure that stands beside a target without being held to it."""
    unit: str
    at_least: bool = False
    """Whether the limit is a lower one."""
    how: str

    @property
    def held(self) -> bool | None:
        """Whether the target is met; None where there is nothing to say."""
        if self.measured is None or self.limit is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


class QuestionTimes(Frozen):
    """Milliseconds of one question through a server."""

    world: str
    n_activations: int
    question: str
    transport: str
    """`stdio`, or `http, 16 readers`."""
    n_calls: int
    p50: float
    p95: float
    slowest: float
    calls_per_second: float | None = None
    """Of all readers together."""


class Build(Frozen):
    """What `import bundle` took."""

    world: str
    n_activations: int
    bundle_bytes: int
    seconds: float
    cpu_seconds: float
    """Of all its processes; what a busy machine does not stretch as it does the clock."""
    stages: dict[str, float]
    """Seconds by stage, from the store's build log."""
    peak_anonymous: int
    """Bytes of anonymous memory of the largest process, sampled."""
    peak_anonymous_total: int
    """The same, all processes together."""
    workers: int
    max_memory_gb: float
    load: tuple[float, float]
    """Load average of the machine before and after."""


class Results(Frozen):
    """Everything a run found."""

    machine: dict[str, Any]
    findings: list[Finding]
    questions: list[QuestionTimes]
    builds: list[Build]
    bounds: dict[str, dict[str, float]]
    """By world, what the machine itself can do: memcpy and sequential read, GB/s."""


def machine() -> dict[str, Any]:
    """What was measured on, without names."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    kind = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = Path("/proc/meminfo").read_text(encoding="utf-8").split()[1]
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": kind,
        "cores": sum(line.startswith("processor") for line in lines),
        "ram_gib": round(int(memory) / 2**20),
        "load_at_start": load(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "zarr", "numcodecs", "polars", "pyarrow", "mcp")},
    }


def load() -> float:
    """The machine's load average of the last minute."""
    return float(Path("/proc/loadavg").read_text(encoding="utf-8").split()[0])
