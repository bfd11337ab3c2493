"""The measured part of docs/recoverbench.md, from results."""

from collections.abc import Sequence

from benchmarks.recover.conditions import RECOVERABLE, Results, Run
from benchmarks.recover.contenders import FOLLOWER, ORACLE, SCRIPTED, Estimate, Score, Tally
from benchmarks.recover.scoring import share
from benchmarks.recover.truth import NOT_RECOVERABLE, STRATA, Stratum


def render(results: Results) -> str:
    """The part of the page that is measured."""
    parts = [_targets(results), *(_run(run) for run in results.runs if not run.condition.shuffled)]
    parts += [_shuffled(run) for run in results.runs if run.condition.shuffled]
    parts.append(_calibration([r for r in results.runs if r.of(SCRIPTED) and not r.condition.shuffled]))
    parts.append(_misses(results))
    return "\n\n".join(part for part in parts if part)


def tally(t: Tally) -> str:
    """k/n, its share and the exact interval."""
    found = share([True] * t.k + [False] * (t.n - t.k))
    if found is None:
        return "-"
    return f"{t.k}/{t.n} = {found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def estimate(e: Estimate) -> str:
    """A mean and its interval."""
    if e.value is None:
        return "-"
    if e.low is None or e.high is None:
        return f"{e.value:.2f}"
    return f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"


def _targets(results: Results) -> str:
    """The three numbers the benchmark was set, on full-size set worlds."""
    run = next((r for r in results.runs if r.condition.kind == "set" and not r.condition.shuffled), None)
    if run is None or (mine := run.of(SCRIPTED)) is None or (follower := run.of(FOLLOWER)) is None:
        return ""
    ours, theirs = mine.recovery(RECOVERABLE), follower.recovery(RECOVERABLE)
    ahead = ours.k / ours.n - theirs.k / theirs.n
    false = mine.false_claims
    rows = [
        ("exact structures, recoverable strata", tally(ours), ">= 0.85", ours.k / ours.n >= 0.85),
        ("false claims on null features", tally(false), "<= 0.05", false.k / false.n <= 0.05),
        ("ahead of the seed-rule follower by", f"{ahead:.2f}", ">= 0.25", ahead >= 0.25),
    ]
    lines = [f"**Targets** ({run.condition.name}).", "", "| | measured | target | |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {found} | {limit} | {'held' if held else '**missed**'} |"
        for what, found, limit, held in rows
    ]
    return "\n".join(lines)


def _run(run: Run) -> str:
    c = run.condition
    head = (
        f"### {c.name}\n\n{len(c.seeds)} worlds (seeds {', '.join(map(str, c.seeds))}), {run.n_rows:,} rows and "
        f"{run.n_features} features in all"
        + (
            f"; of {c.n_planted} planted, these have a latent that correlates with them; the rest is left out."
            if c.activations == "trained"
            else "."
        )
        + f" Measured {run.date}."
    )
    shown = [s for s in run.scores if s.contender not in (ORACLE, "always nothing")]
    return "\n\n".join([head, overall_table(run.scores), stratum_table(shown)])


def overall_table(scores: Sequence[Score]) -> str:
    """A row a contender."""
    lines = [
        "| | exact, recoverable strata | false claims (dead, noise) | families F1 | polarity | thresholds | combine, "
        "dose | gate | balanced accuracy held out | Brier (trivial) | calls |",
        "|---" * 11 + "|",
    ]
    for s in scores:
        calls = f"{s.calls:.1f}" if s.calls else "-"
        lines.append(
            f"| {s.contender} | {tally(s.recovery(RECOVERABLE))} | {tally(s.false_claims)} | "
            + " | ".join(_short(e) for e in (s.families_f1, s.polarity, s.thresholds, s.combine, s.gate))
            + f" | {estimate(s.balanced_accuracy)} | {s.calibration.brier:.3f} ({s.calibration.brier_trivial:.3f}) "
            f"| {calls} |"
        )
    return "\n".join(lines)


def _short(e: Estimate) -> str:
    return "-" if e.value is None else f"{e.value:.2f}"


def stratum_table(shown: Sequence[Score]) -> str:
    """A row a stratum; the first contender with its interval. In italics what does not count as recoverable."""
    lines = [f"| stratum | {' | '.join(s.contender for s in shown)} |", "|---" * (len(shown) + 1) + "|"]
    for stratum in STRATA:
        if stratum not in shown[0].recovered:
            continue
        name = f"*{stratum}*" if stratum in NOT_RECOVERABLE else stratum
        cells = [tally(shown[0].recovered[stratum]), *(_bare(s, stratum) for s in shown[1:])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _bare(s: Score, stratum: Stratum) -> str:
    found = s.recovered.get(stratum)
    return "-" if found is None else f"{found.k}/{found.n}"


def _shuffled(run: Run) -> str:
    lines = [
        f"### {run.condition.name}",
        "",
        f"{run.n_features} features of {len(run.condition.seeds)} worlds (seeds "
        f"{', '.join(map(str, run.condition.seeds))}), activations dealt to other rows: every "
        "claim is false.",
        "",
        "| | false claims |",
        "|---|---|",
    ]
    lines += [f"| {s.contender} | {tally(s.false_claims)} |" for s in run.scores]
    return "\n".join(lines)


def _calibration(runs: Sequence[Run]) -> str:
    lines = [
        "### Calibration of the scripted investigator",
        "",
        "Confidence against being exactly right, all features (claims of nothing too). The trivial Brier score is "
        "that of saying the overall share every time, which nobody knows beforehand.",
        "",
        "| worlds | confidence | claims | mean confidence | right |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        score = run.of(SCRIPTED)
        assert score is not None, "only runs of the scripted investigator come here"
        for b in score.calibration.bins:
            lines.append(
                f"| {run.condition.name} | {b.low:g} to {b.high:g} | {b.n} | {b.confidence:.2f} | {b.right:.2f} |"
            )
    return "\n".join(lines)


def _misses(results: Results) -> str:
    rows = [
        f"| {run.condition.name} | {m.stratum} | `{m.planted}` | `{m.claimed}` | {m.confidence:g} |"
        for run in results.runs
        for m in run.misses
    ]
    if not rows:
        return ""
    lines = [
        "### What the scripted investigator got wrong",
        "",
        "Recoverable strata; all of it.",
        "",
        "| worlds | stratum | planted | claimed | confidence |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *rows])
