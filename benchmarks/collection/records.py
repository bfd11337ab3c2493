"""What the benchmark keeps: one trial for each run of a contender, what the contenders' activations have in common."""

from pydantic import PositiveInt

from saeinterp_mcp.frozen import Frozen


class Lap(Frozen):
    """How long something took."""

    wall_seconds: float
    cpu_seconds: float
    """User and system seconds of all threads; what others do on the machine hardly moves it."""


class Report(Frozen):
    """What a runner says of itself."""

    n_positions: PositiveInt
    """Positions the model was run on, BOS among them."""
    n_activations: PositiveInt
    loaded_mb: float
    """Anonymous memory after imports, model and SAE."""
    laps: dict[str, Lap]
    """`load`; `collect`; `save` (delphi), `whole` (SAEDashboard with its dashboards, `collect` included)."""


class Trial(Frozen):
    """One run of one contender, in a process of its own."""

    contender: str
    threads: PositiveInt
    process: Lap
    """From start to end of the process."""
    peak_mb: float
    """Highest anonymous memory (RssAnon) seen, sampled every 10 ms."""
    report: Report

    @property
    def steady(self) -> Lap:
        """The work without the loading; what it writes to disk is part of it."""
        laps = self.report.laps
        parts = [laps["whole"]] if "whole" in laps else [laps["collect"], *filter(None, [laps.get("save")])]
        return Lap(
            wall_seconds=sum(lap.wall_seconds for lap in parts),
            cpu_seconds=sum(lap.cpu_seconds for lap in parts),
        )


class Agreement(Frozen):
    """Our activations against a peer's, at the positions both keep."""

    peer: str
    n_same: int
    """Feature and position in both, values within `TOLERANCE`."""
    n_differ: int
    """In both, values further apart."""
    n_only_ours: int
    n_only_theirs: int
    largest_difference: float
    """Of two values of one feature and position."""
    furthest_from_threshold: float
    """Of the activations that only one of the two has: there, rounding decides whether a feature fires."""
    n_at_bos: int
    """Theirs at position 0, which the SAE was not trained on and ours leaves out."""


class Results(Frozen):
    """A whole run of the benchmark."""

    n_windows: PositiveInt
    context: PositiveInt
    n_cores: PositiveInt
    repeats: PositiveInt
    versions: dict[str, dict[str, str]]
    """Contender's environment to package to version."""
    trials: tuple[Trial, ...]
    larger: tuple[Trial, ...]
    """One run of each with more tokens and one thread, for the memory."""
    agreements: tuple[Agreement, ...]
