"""Who answers the trials of a test: a language model that the operator configured, the text embedder, a local model."""

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.config import JUDGE_BUDGET_VARIABLE, JUDGES_VARIABLE, Settings
from saeinterp_mcp.errors import BadInput, Unavailable
from saeinterp_mcp.labels.database import LabelFile
from saeinterp_mcp.operations.progress import report
from saeinterp_mcp.scorers.base import Answer, InvalidAnswer, Scorer, Trial
from saeinterp_mcp.store.base import Store

if TYPE_CHECKING:
    from saeinterp_mcp.asking.asker import Asker
    from saeinterp_mcp.asking.ledger import Ledger
    from saeinterp_mcp.asking.runs import Run
    from saeinterp_mcp.clients.local import TextModel

SELF = "self"
KIND = "label_score"
"""Of the run that all questions of this operation about one store belong to: its cost is counted in one place."""
CONCURRENCY = 8
WAIT_SECONDS = 120.0
"""How long to wait for another process that asks judges about this store."""
LEFT_OUT = "left out of the reply"
Part = tuple[Request, tuple[Trial, ...]]
_turn = threading.Lock()
"""One call after the other asks, so that a budget is not spent twice over."""


class Judged(NamedTuple):
    """What came back; a trial without an answer is missing from `answers`."""

    judge: str
    answers: dict[str, Answer]
    cost: float | None
    """US dollars, those paid before included; None where nobody knows."""
    failures: dict[str, int]
    """Why trials have no answer, counted."""

    @classmethod
    def of(
        cls,
        judge: str,
        answers: dict[str, Answer],
        cost: float | None,
        trials: Sequence[Trial],
        failures: Mapping[str, int],
    ) -> "Judged":
        """With those counted that a reply says nothing about."""
        n_left_out = len(trials) - len(answers) - sum(failures.values())
        return cls(judge, answers, cost, {**failures, **({LEFT_OUT: n_left_out} if n_left_out else {})})


def ask_judge(
    store: Store, scorer: Scorer, feature: int, claim: str, trials: Sequence[Trial], judge: str | None
) -> Judged:
    """Have trials answered by whoever answers this scorer's.

    Raises:
        BadInput: no such judge, none at all, its budget is spent, or there is no place for what is asked.
        Unavailable: what answers is not installed, or failed.
    """
    if scorer.needs == "embedder":
        return _by_embedder(scorer, claim, trials, judge)
    spec = configured_judge(judge, local=scorer.needs == "text_model")
    if scorer.needs == "text_model":
        model = _text_model(spec)
        return Judged.of(model.name, scorer.answers(claim, trials, model), 0.0, trials, {})  # type: ignore[attr-defined]
    return _by_model(store, scorer, feature, claim, trials, spec)


def configured_judge(judge: str | None, local: bool = False) -> str:
    """The client that a caller means, among those that the operator allows; the first when none is named.

    Raises:
        BadInput: none is configured, or not this one.
    """
    judges = [one for one in Settings.from_environment().judges if not local or one.startswith("local:")]
    what = "a model of this machine (surprisal reads its losses)" if local else "a judge"
    example = "local:DIR" if local else "anthropic:claude-haiku-4-5"
    if not judges:
        instead = "another method" if local else "judge self: you answer the trials, and nothing is paid"
        raise BadInput(
            f"no model may be asked here: whoever runs the server names {what} in the variable {JUDGES_VARIABLE}, as "
            f"in {example} (several with commas between). Without one use {instead}"
        )
    if judge is None:
        return judges[0]
    named = [one for one in judges if judge in (one, one.partition(":")[2])]
    if not named:
        raise BadInput(
            f"{judge!r} is no judge that may be asked here; there are: {', '.join(judges)}, and self. Whoever runs the "
            f"server names them in {JUDGES_VARIABLE}"
        )
    return named[0]


def ledger_of(store: Store) -> "Ledger | None":
    """Where questions about a store are kept: beside its folder, else beside its labels file; None: nowhere."""
    from saeinterp_mcp.asking.ledger import Ledger, ledger_beside
    from saeinterp_mcp.asking.schema import SUFFIX

    folder = getattr(store.backend, "path", None)
    if isinstance(folder, Path) and os.access(folder.resolve().parent, os.W_OK):
        return ledger_beside(folder)
    if isinstance(store.labels, LabelFile):
        return Ledger(store.labels.path.with_name(store.labels.path.name + SUFFIX))
    return None


def read_replies(
    scorer: Scorer, parts: Sequence[Part], replies: Sequence[Reply]
) -> tuple[dict[str, Answer], Counter[str]]:
    """Answers, and how many trials have none for which reason."""
    from saeinterp_mcp.asking.giving_up import failure_of

    answers: dict[str, Answer] = {}
    failures: Counter[str] = Counter()
    for (_, trials), reply in zip(parts, replies, strict=True):
        if reply.outcome != "answered":
            failures[failure_of(reply)] += len(trials)
            continue
        try:
            answers |= scorer.read(trials, reply)
        except InvalidAnswer as error:
            failures[str(error)] += len(trials)
    return answers, failures


def _by_embedder(scorer: Scorer, claim: str, trials: Sequence[Trial], judge: str | None) -> Judged:
    from saeinterp_mcp.clients.embedding import default_embedder

    embedder = default_embedder()
    if judge not in (None, embedder.name):
        raise BadInput(
            "method embedding asks nobody: it compares the words of claim and samples. Leave judge out, or take "
            "another method"
        )
    if (reason := embedder.why_not()) is not None:
        raise Unavailable(f"method embedding cannot be used here: {reason}. detection with judge self can")
    answers = scorer.answers(claim, trials, embedder)  # type: ignore[attr-defined]
    return Judged.of(embedder.name, answers, 0.0, trials, {})


@lru_cache(maxsize=1)
def _text_model(spec: str) -> "TextModel":
    from saeinterp_mcp.clients.local import TextModel

    return TextModel(Path(spec.partition(":")[2]).expanduser())


def _by_model(
    store: Store, scorer: Scorer, feature: int, claim: str, trials: Sequence[Trial], spec: str
) -> Judged:
    from saeinterp_mcp.clients.open_client import open_client

    client = open_client(spec)
    if (reason := client.why_not()) is not None:
        raise Unavailable(f"judge {spec} cannot be asked here: {reason}")
    ledger = ledger_of(store)
    if ledger is None:
        raise BadInput(
            f"store {store.name!r} has no place to write down what a judge is asked, and nothing is asked without "
            "that; name a file with --labels FILE, or use judge self"
        )
    room = Settings.from_environment().think_tokens
    parts = [(request.with_room(room), part) for request, part in scorer.requests(claim, trials)]
    try:
        with _turn, _run(store, ledger) as run:
            import asyncio  # slow to load, and most servers have no judge

            from saeinterp_mcp.asking.asker import Asker
            from saeinterp_mcp.asking.budget import BudgetReached

            try:
                asker = Asker(client, run, _budget(store, ledger, run), CONCURRENCY)
                replies = asyncio.run(_ask_all(asker, feature, scorer.name, parts))
            except BudgetReached as error:
                raise BadInput(
                    f"the budget for judges of this store ({JUDGE_BUDGET_VARIABLE}) has no room for another question: "
                    f"{error.spent.usd:.4f} of {error.ceiling:.4f} dollars are spent. Whoever runs the server can "
                    "raise it; judge self costs nothing"
                ) from error
            status = ledger.run_status(run.run)
            run.progress(1 + (status.n_done if status else 0))
        cost = ledger.paid([request.key(client.name) for request, _ in parts])
    finally:
        ledger.close()
    answers, failures = read_replies(scorer, parts, replies)
    return Judged.of(client.name, answers, cost, trials, failures)


async def _ask_all(asker: "Asker", feature: int, purpose: str, parts: Sequence[Part]) -> list[Reply]:
    import asyncio

    done = 0

    async def ask(request: Request) -> Reply:
        nonlocal done
        reply = await asker.ask(feature, purpose, request)
        done += 1
        report(done, len(parts))
        return reply

    report(0, len(parts))
    async with asker:
        return await asyncio.gather(*(ask(request) for request, _ in parts))


def _run(store: Store, ledger: "Ledger") -> "Run":
    """The one run of this store, once no other process is at it."""
    from saeinterp_mcp.asking.runs import run_id

    until = time.monotonic() + WAIT_SECONDS
    while ledger.lives(run_id(KIND, {}, store.fingerprint)) and time.monotonic() < until:
        time.sleep(0.1)
    return ledger.begin(KIND, {}, store.lineage, store.fingerprint)


def _budget(store: Store, ledger: "Ledger", run: "Run") -> Any:
    """What is left of the operator's budget: what was spent on earlier generations of the store counts too."""
    from saeinterp_mcp.asking.budget import Budget

    ceiling = Settings.from_environment().judge_budget
    if ceiling is None:
        return Budget()
    before = [one for one in ledger.runs_of(store.lineage) if one.kind == KIND and one.run != run.run]
    return Budget(max_usd=max(0.0, ceiling - sum(one.usd or 0.0 for one in before)))
