"""One load check: what was measured, what was expected, and whether it holds."""

from collections.abc import Sequence

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
