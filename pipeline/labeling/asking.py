"""Asks a language model for labels: each question once, written down in the ledger of the output folder."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.explainers.base import InvalidExplanation
from pipeline.explainers.max_activating import MaxActivating
from pipeline.progress import Reporter
from pipeline.source_config import ModelConfig
from saeinterp_mcp.analysis.text import shortened, visible
from saeinterp_mcp.clients.base import Client, Reply, Request
from saeinterp_mcp.errors import NotInStore, SaeInterpError, Unavailable
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.store.base import Store

if TYPE_CHECKING:
    from saeinterp_mcp.asking.runs import Run

CLIENTS = ("anthropic:", "openai:", "local:", "recorded:")
TOP_SHARE = 3 / 8
"""Of the excerpts shown, as the explainer's own defaults have it; the others spread over the range of activations."""
CONCURRENCY = 8


class LabelModel(Frozen):
    """The language model that writes labels."""

    spec: str
    """A client (`anthropic:MODEL`), a folder, or a hub name."""
    chosen: bool
    """Whether the caller named it; else it is the subject model, which may not be able to answer."""
    revision: str | None = None
    """Of a hub name."""
    n_examples: int
    """Excerpts that it sees."""
    ledger: Path
    max_usd: float | None
    seed: int = 0


class Answer(Frozen):
    """What the language model says of a feature, or why it says nothing."""

    label: str | None = None
    explanation: str | None = None
    confidence: float | None = None
    usd: float | None = None
    """Paid for it, whenever that was; None where that is unknown or nothing was asked."""
    reason: str | None = None
    """Why there is no label."""


class Answers(Frozen):
    """By feature, and what was asked."""

    answers: dict[int, Answer]
    provenance: dict[str, Any] | None


def ask_model(store: Store, features: Sequence[int], model: LabelModel | None, reporter: Reporter) -> Answers:
    """A label for each feature, from excerpts of the explain split.

    Raises:
        Unavailable: the model that the caller named cannot be asked here.
        BadInput: it names no model.
    """
    if model is None:
        silent = Answer(reason="no language model was asked")
        return Answers(answers=dict.fromkeys(features, silent), provenance=None)
    explainer = explainer_of(model.n_examples)
    questions: dict[int, Request] = {}
    answers: dict[int, Answer] = {}
    for feature in features:
        try:
            questions[feature] = explainer.request(store, feature, model.seed)
        except NotInStore as error:
            answers[feature] = Answer(reason=str(error))
    replies: Mapping[int, Reply | str] = {}
    client = None
    try:
        client = _client(model)
        if questions:
            replies = _asked(store, questions, client, explainer, model, reporter)
    except Unavailable as error:
        if model.chosen:
            raise
        replies = dict.fromkeys(questions, str(error))
    paid = _paid(model.ledger, questions, client)
    for feature in questions:
        answers[feature] = _answer(explainer, store, replies[feature], paid.get(feature))
    answered_by = {reply.model for reply in replies.values() if isinstance(reply, Reply) and reply.model}
    return Answers(
        answers=answers,
        provenance={
            "client": _shown(client.name if client is not None else model.spec),
            "answered_by": sorted(answered_by),
            "explainer": {"name": explainer.name, **explainer.model_dump(mode="json")},
            "seed": model.seed,
        },
    )


def explainer_of(n_examples: int) -> MaxActivating:
    """The max-activating explainer with so many excerpts, the strongest and some of the whole range."""
    n_top = max(1, math.ceil(TOP_SHARE * n_examples))
    return MaxActivating(n_top=n_top, n_spread=n_examples - n_top)


def _client(model: LabelModel) -> Client:
    from saeinterp_mcp.clients.open_client import open_client

    if model.spec.startswith(CLIENTS):
        return open_client(model.spec)
    folder = Path(model.spec).expanduser()
    if folder.is_dir():
        return open_client(f"local:{folder.resolve()}")
    from pipeline.sources.pretrained import commit_of, model_folder

    name, _, revision = model.spec.partition("@")
    commit = revision or model.revision or commit_of(name, "model")
    return open_client(f"local:{model_folder(ModelConfig(hub=name, revision=commit))}")


def _asked(
    store: Store,
    questions: Mapping[int, Request],
    client: Client,
    explainer: MaxActivating,
    model: LabelModel,
    reporter: Reporter,
) -> dict[int, Reply | str]:
    """A reply for each feature, or why there is none; what was answered before is not asked again."""
    from saeinterp_mcp.asking.ledger import Ledger

    ledger = Ledger(model.ledger)
    config = {"explainer": explainer.name, **explainer.model_dump(mode="json")}
    about = {**config, "client": client.name, "seed": model.seed, "features": list(questions)}
    try:
        with ledger.begin("label", about, store.lineage, store.fingerprint, len(questions)) as run:
            replies = _run_alone(_ask_each(run, client, questions, model, reporter))
            refused = [reply for reply in replies.values() if isinstance(reply, str)]
            if refused:
                run.finish("stopped", refused[0])
                reporter.say(
                    f"label: {len(refused)} of {len(replies)} features were not asked about: {refused[0]}"
                )
    finally:
        ledger.close()
    return replies


async def _ask_each(
    run: "Run", client: Client, questions: Mapping[int, Request], model: LabelModel, reporter: Reporter
) -> dict[int, Reply | str]:
    from saeinterp_mcp.asking.asker import Asker
    from saeinterp_mcp.asking.budget import Budget

    done = 0
    async with Asker(client, run, Budget(max_usd=model.max_usd), concurrency=CONCURRENCY) as asker:
        with reporter.working("label") as advance:

            async def ask(feature: int, request: Request) -> Reply | str:
                nonlocal done
                try:
                    return await asker.ask(feature, "explain", request)
                except Unavailable:
                    raise
                except (
                    SaeInterpError
                ) as error:  # a ceiling, or too many failures: the others have their answers
                    return str(error)
                finally:
                    done += 1
                    run.progress(done)
                    advance(done, len(questions))

            found = await asyncio.gather(*(ask(feature, request) for feature, request in questions.items()))
    return dict(zip(questions, found, strict=True))


def _run_alone(work: Any) -> dict[int, Reply | str]:
    """Run to its end, also where an event loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return dict(asyncio.run(work))
    with ThreadPoolExecutor(1) as thread:
        return dict(thread.submit(asyncio.run, work).result())


def _paid(path: Path, questions: Mapping[int, Request], client: Client | None) -> dict[int, float | None]:
    from saeinterp_mcp.asking.ledger import Ledger

    if client is None:
        return {}
    ledger = Ledger(path)
    try:
        return {feature: ledger.paid([request.key(client.name)]) for feature, request in questions.items()}
    finally:
        ledger.close()


def _answer(explainer: MaxActivating, store: Store, reply: Reply | str, usd: float | None) -> Answer:
    if isinstance(reply, str):
        return Answer(reason=reply)
    if reply.outcome != "answered":
        said = ": ".join(part for part in (reply.outcome, reply.reason, reply.detail) if part)
        return Answer(usd=usd, reason=f"the language model gave no answer ({shortened(visible(said), 300)})")
    try:
        found = explainer.read(store, reply)
    except InvalidExplanation as error:
        return Answer(usd=usd, reason=f"the language model's answer is no label ({error})")
    if found.is_unclear:
        reason = "the language model says that it sees no pattern (unclear)"
        return Answer(
            explanation=found.explanation or None, confidence=found.confidence, usd=usd, reason=reason
        )
    return Answer(label=found.label, explanation=found.explanation, confidence=found.confidence, usd=usd)


def _shown(name: str) -> str:
    """A client's name without the folders of this machine."""
    kind, _, rest = name.partition(":")
    return f"{kind}:{Path(rest).name}" if kind in ("local", "recorded") else name
