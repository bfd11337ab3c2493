"""One load check: what was measured, what was expected, and whether it holds."""

from collections.abc import Sequence
from typing import Protocol

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen

CHECKS = (
    "hook_exists",
    "shapes_agree",
    "context_fits",
    "vocabulary_fits",
    "l0",
    "explained_variance",
    "loss_recovered",
    "dead_fraction",
    "unembedding",
    "direct_effect",
)
"""Every check there is; the last one is made by `measure_outputs`, the others by `check_load`. A run over sets makes
those that have a meaning there, in `check_vectors` and `measure_read_out`."""

MARGIN = 0.1
"""By how much the explained variance must be above that of a shuffled decoder."""


class Check(Frozen):
    """The result of a load check."""

    name: str
    passed: bool
    value: float | str | None
    """What was measured; None where it could not be."""
    expected: str
    """What would pass, in words and numbers."""
    note: str = ""


def rounded(value: float) -> float:
    """Six significant digits: enough to judge by, and the same on every machine that rounds a little
    differently."""
    return float(f"{value:.6g}")


def not_run(name: str, expected: str, why: str) -> Check:
    """A check that needs what an earlier one found missing."""
    return Check(name=name, passed=False, value=None, expected=expected, note=f"not run: {why}")


class Measured(Protocol):
    """`evaluation.Reconstruction`, without the torch behind it."""

    @property
    def n_positions(self) -> int: ...  # noqa: D102
    @property
    def l0(self) -> float: ...  # noqa: D102
    @property
    def dead_fraction(self) -> float: ...  # noqa: D102
    @property
    def explained_variance(self) -> float: ...  # noqa: D102
    @property
    def shuffled_explained_variance(self) -> float: ...  # noqa: D102


class ReconstructionLimits(Protocol):
    """What a run of either kind asks of a reconstruction."""

    @property
    def expected_l0(self) -> float | None: ...  # noqa: D102
    @property
    def l0_tolerance(self) -> float: ...  # noqa: D102
    @property
    def min_explained_variance(self) -> float: ...  # noqa: D102
    @property
    def max_dead_fraction(self) -> float: ...  # noqa: D102


def reconstruction_checks(
    found: Measured | None,
    limits: ReconstructionLimits,
    stated_l0: float | None,
    n_features: int,
    row: str,
    why_not: str,
) -> tuple[Check, Check, Check]:
    """L0, explained variance and dead features.

    Args:
        found: what was measured; None where it could not be, because of `why_not`.
        limits: of the config; its `expected_l0` goes before what the SAE states.
        stated_l0: what the SAE's files say.
        n_features: of the SAE.
        row: what a vector belongs to, `position` or `sample`.
        why_not: an earlier failure.
    """
    stated = limits.expected_l0 if limits.expected_l0 is not None else stated_l0
    low, high = (0.0, float(n_features))
    if stated is not None:
        low, high = stated * (1 - limits.l0_tolerance), stated * (1 + limits.l0_tolerance)
    where = "on a sample" if row == "sample" else f"at a {row}"
    l0 = f"{low:.4g} to {high:.4g} features firing {where}"
    explained = f"at least {limits.min_explained_variance:.4g}, and {MARGIN} above that of a shuffled decoder"
    dead = f"at most {limits.max_dead_fraction:.4g} of the features never firing on the {row}s drawn"
    if found is None:
        expectations = {"l0": l0, "explained_variance": explained, "dead_fraction": dead}
        first, second, third = (not_run(name, text, why_not) for name, text in expectations.items())
        return first, second, third
    variance, shuffled = found.explained_variance, found.shuffled_explained_variance
    return (
        Check(
            name="l0",
            passed=low <= found.l0 <= high,
            value=rounded(found.l0),
            expected=l0,
            note="" if stated is not None else "the SAE states neither l0 nor k",
        ),
        Check(
            name="explained_variance",
            passed=variance >= limits.min_explained_variance and variance > shuffled + MARGIN,
            value=rounded(variance),
            expected=explained,
            note=f"shuffled decoder {shuffled:.4g}",
        ),
        Check(
            name="dead_fraction",
            passed=found.dead_fraction <= limits.max_dead_fraction,
            value=rounded(found.dead_fraction),
            expected=dead,
            note=f"on {found.n_positions:,} {row}s",
        ),
    )


def enforce(checks: Sequence[Check], allow: Sequence[str]) -> list[Check]:
    """The checks, with allowed failures marked.

    Raises:
        BadInput: a failure that is not allowed (all of them are listed), or `allow` names a check that does
            not exist.
    """
    unknown = [name for name in allow if name not in CHECKS]
    if unknown:
        raise BadInput(f"checks.allow names {', '.join(unknown)}; the checks are: {', '.join(CHECKS)}")
    failed = [check for check in checks if not check.passed and check.name not in allow]
    if failed:
        lines = [f"  {describe(check)}" for check in failed]
        raise BadInput(
            f"{len(failed)} of {len(checks)} checks failed:\n" + "\n".join(lines) + "\n"
            "The SAE may belong to another model, hook or text. To build all the same: checks.allow."
        )
    return [
        check
        if check.passed or check.name not in allow
        else check.model_copy(
            update={"note": "; ".join(filter(None, [check.note, "failed, allowed by checks.allow"]))}
        )
        for check in checks
    ]


def describe(check: Check) -> str:
    """`l0: 301.2, expected 20.8 to 43.2; a note`."""
    value = "nothing" if check.value is None else check.value
    return f"{check.name}: {value}, expected {check.expected}" + (f"; {check.note}" if check.note else "")
