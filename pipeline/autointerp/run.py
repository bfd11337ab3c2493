"""A run: features explained and their labels scored, many at once, until done or stopped; killed, it goes on."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Final, NamedTuple

from pipeline.autointerp.config import Execution, ExplainConfig, Method, RunConfig, ScoreConfig
from pipeline.autointerp.controls import wrong_labels
from pipeline.autointerp.drafts import drafts_of, source_of
from pipeline.autointerp.explaining import (
    PURPOSE,
    LeftOut,
    draft_by_counting,
    draft_from,
    explainer_of,
    without_numbers,
)
from pipeline.autointerp.results import FeatureRow, MethodScore
from pipeline.autointerp.scoring import (
    Sitting,
    finish,
    grade_alone,
    known_scores,
    needs_judge,
    prepare,
    score_without_judge,
)
from saeinterp_mcp.asking.asker import Asker
from saeinterp_mcp.asking.batches import BatchPace
from saeinterp_mcp.asking.budget import Account, BudgetReached
from saeinterp_mcp.asking.calls import Item, calls_of_run, spent_by_feature
from saeinterp_mcp.asking.prices import load_prices
from saeinterp_mcp.asking.runs import Run
from saeinterp_mcp.clients.base import Reply, Request
from saeinterp_mcp.clients.open_client import open_client
from saeinterp_mcp.errors import BadInput, SaeInterpError
from saeinterp_mcp.labels.records import Label
from saeinterp_mcp.store.base import Store

WAVE: Final = 4_000
"""Features whose questions are put into batches together."""
TELL_SECONDS: Final = 1.0
"""Between two notes of how far the run is."""


class Task(NamedTuple):
    """One thing to work on: a feature to explain, or a label to score."""

    feature: int
    label: Label | None = None


class Outcome(NamedTuple):
    """What came of a run."""

    rows: list[FeatureRow]
    controls: dict[str, list[float]]
    untested: Counter[str]
    """Why labels have no score by a method, counted."""
    stopped: str | None
    """Why it ended early."""


class AutoInterpRun:
    """Works on tasks. One event loop; what is kept is kept in the label store and the ledger, never here alone."""

    def __init__(
        self,
        store: Store,
        config: RunConfig,
        execution: Execution,
        run: Run,
        tasks: Sequence[Task],
        advance: Callable[[int, int], None],
    ) -> None:
        self.store, self.config, self.execution, self.run = store, config, execution, run
        self.tasks = list(tasks)
        self._advance = advance
        self._rows: list[FeatureRow] = []
        self._controls: dict[str, list[float]] = {}
        self._untested: Counter[str] = Counter()
        self._stop: str | None = None
        self._told = 0.0
        self._place = {task.label.label_id if task.label else task.feature: i for i, task in enumerate(tasks)}
        self._slots = asyncio.Semaphore(execution.concurrency)
        self._explainer = explainer_of(config.explain) if config.explain else None
        self._source = source_of(store, config.explain) if config.explain else ""
        self._drafts = drafts_of(store, self._source) if config.explain else {}

    async def carry_out(self) -> Outcome:
        """Work until everything is done, a ceiling or too many failures end it, or somebody stops it."""
        async with AsyncExitStack() as stack:
            self._explaining, self._judging = await self._askers(stack)
            with self._stoppable():
                if self.execution.batch:
                    await self._by_batches()
                else:
                    await self._all(self.tasks)
                self._rows.sort(key=self._place_of)
                if self._stop is None and self.config.score and self.config.score.n_controls:
                    await self._work(self._controlled)
        self._tell(last=True)
        return Outcome(self._rows, self._controls, self._untested, self._stop)

    # who is asked

    async def _askers(self, stack: AsyncExitStack) -> tuple[Asker | None, Asker | None]:
        """One for each client; both of one model are one. They share the ceilings."""
        specs = [
            self.config.explain.model if self.config.explain else None,
            self.config.score.judge if self.config.score else None,
        ]
        by_spec: dict[str, Asker] = {}
        account: Account | None = None
        prices = load_prices(self.execution.prices)
        for spec in specs:
            if spec is None or spec in by_spec:
                continue
            client = open_client(spec)
            rate = prices.of(client.name)
            if account is None:
                before = self.run.ledger.look(lambda c: list(calls_of_run(c, self.run.run)))
                account = Account(self.execution.budget, rate, spent_by_feature(before, rate))
            else:
                Account(
                    self.execution.budget, rate
                )  # refuses a ceiling in dollars where this price is unknown
            by_spec[spec] = await stack.enter_async_context(
                Asker(
                    client,
                    self.run,
                    account,
                    self.execution.concurrency,
                    self.execution.never_repeat,
                    prices=prices,
                    pace=BatchPace(poll_seconds=self.execution.poll_seconds),
                )
            )
        return tuple(by_spec.get(spec) if spec else None for spec in specs)  # type: ignore[return-value]

    async def _ask(self, asker: Asker, feature: int, purpose: str, request: Request) -> Reply:
        async with self._slots:  # of both clients together
            return await asker.ask(feature, purpose, request)

    # the order of work

    async def _all(self, tasks: Sequence[Task]) -> None:
        todo = iter(tasks)

        async def worker() -> None:
            for task in todo:
                if self._stop is not None:
                    return
                if not await self._work(lambda task=task: self._task(task)):  # type: ignore[misc]
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.execution.concurrency, len(tasks))):
                group.create_task(worker())

    async def _by_batches(self) -> None:
        """All questions of a wave in batches; then the same work as always finds every answer on record."""
        for start in range(0, len(self.tasks), WAVE):
            wave = self.tasks[start : start + WAVE]
            if self._stop is None and await self._work(lambda wave=wave: self._ask_ahead(wave)):  # type: ignore[misc]
                await self._all(wave)

    async def _ask_ahead(self, wave: Sequence[Task]) -> None:
        if self._explaining is not None:
            items = [item for task in wave for item in self._explain_items(task)]
            if items:
                await self._explaining.ask_batch(items)
        if self._judging is not None and self.config.score is not None:
            asked: list[Item] = []
            for task in wave:
                with suppress(LeftOut):
                    label = await self._label(task)
                    asked += self._score_items(label, self.config.score)
            if asked:
                await self._judging.ask_batch(asked)

    async def _work(self, work: "Callable[[], object]") -> bool:
        """Do one thing; False where the run has to end, which it then does once the others are through with theirs."""
        try:
            await work()  # type: ignore[misc]
        except SaeInterpError as error:
            self._stop = self._stop or str(error)
            return False
        return True

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Ctrl-C or SIGTERM: what is under way is waited for, because it is paid for; a second one ends it at once."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            self._stop = self._stop or "stopped by the user"
            for number in numbers:
                loop.remove_signal_handler(number)

        numbers = (signal.SIGINT, signal.SIGTERM)
        with suppress(RuntimeError, ValueError):  # not in the main thread
            for number in numbers:
                loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            with suppress(RuntimeError, ValueError):
                for number in numbers:
                    loop.remove_signal_handler(number)

    # one task

    async def _task(self, task: Task) -> None:
        try:
            label = await self._label(task)
        except LeftOut as left:
            self._add(FeatureRow(feature=task.feature, state="left out", reason=str(left)))
            return
        scores: list[MethodScore] = []
        if label.status != "unclear" and self.config.score is not None:
            scores = await self._scores(label, self.config.score)
        self._add(
            FeatureRow(
                feature=label.feature,
                state="unclear" if label.status == "unclear" else "labelled",
                label_id=label.label_id,
                label=label.text,
                explanation=label.explanation,
                confidence=label.confidence,
                scores=tuple(scores),
            )
        )

    async def _label(self, task: Task) -> Label:
        """The label of a task: the one it is about, the draft on record, or a new one."""
        if task.label is not None:
            return task.label
        known = self._drafts.get(task.feature)
        if known is None:
            known = self._drafts[task.feature] = await self._explained(task.feature, self._need_explain)
        if known.retired:
            raise LeftOut("its draft was retired")
        return known

    @property
    def _need_explain(self) -> ExplainConfig:
        assert self.config.explain is not None, "a task without a label is to be explained"
        return self.config.explain

    async def _explained(self, feature: int, config: ExplainConfig) -> Label:
        assert self._explainer is not None, "a run that explains has an explainer"
        about = f"Explained by {config.explainer} in {self.run.run}"
        if self._explaining is None:
            return await asyncio.to_thread(
                draft_by_counting, self.store, self._explainer, feature, config.seed, self._source, about
            )
        request = self._explain_request(feature, config.seed)
        try:
            reply = await self._ask(self._explaining, feature, PURPOSE, request)
        except BudgetReached as reached:
            if reached.per == "run":
                raise
            raise LeftOut("ceiling of the feature") from reached
        author = self._explaining.client.name
        cost = self.run.ledger.paid([request.key(author)])
        return draft_from(self.store, self._explainer, feature, reply, self._source, author, cost, about)

    def _explain_request(self, feature: int, seed: int) -> Request:
        assert self._explainer is not None, "a run that explains has an explainer"
        try:
            return self._explainer.request(self.store, feature, seed)
        except SaeInterpError as error:
            raise LeftOut(without_numbers(error)) from error

    def _explain_items(self, task: Task) -> list[Item]:
        if task.label is not None or task.feature in self._drafts:
            return []
        try:
            return [Item(task.feature, PURPOSE, self._explain_request(task.feature, self._need_explain.seed))]
        except LeftOut:
            return []

    # scores

    async def _scores(self, label: Label, config: ScoreConfig) -> list[MethodScore]:
        judge = self._judging.client.name if self._judging else None
        known = known_scores(self.store, label, config, judge)
        found = []
        for method in config.methods:
            if method in known:
                found.append(known[method])
                continue
            try:
                found.append(await self._score(label, method, config))
            except LeftOut as left:
                self._untested[f"{method}: {left}"] += 1
        return found

    async def _score(self, label: Label, method: Method, config: ScoreConfig) -> MethodScore:
        if not needs_judge(method):
            if method == "rule" and label.rule is None:
                raise LeftOut("the label has no rule")
            try:
                return await asyncio.to_thread(score_without_judge, self.store, label, method, config)
            except SaeInterpError as error:
                raise LeftOut(without_numbers(error)) from error
        sitting = self._sitting(label, method, config)
        replies = await self._judged(sitting, f"score:{method}")
        assert self._judging is not None, "a method that needs a judge has one"
        name = self._judging.client.name
        cost = self.run.ledger.paid([request.key(name) for request, _ in sitting.parts])
        return finish(self.store, sitting, replies, name, cost)

    def _sitting(self, label: Label, method: Method, config: ScoreConfig) -> Sitting:
        try:
            return prepare(self.store, label, method, config)
        except SaeInterpError as error:
            raise LeftOut(without_numbers(error)) from error

    async def _judged(self, sitting: Sitting, purpose: str) -> list[Reply]:
        assert self._judging is not None, "a method that needs a judge has one"
        asker, feature = self._judging, sitting.test.feature
        asked = [self._ask(asker, feature, purpose, request) for request, _ in sitting.parts]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BudgetReached) and reply.per == "feature":
                raise LeftOut("ceiling of the feature") from reply
            if isinstance(reply, BaseException):
                raise reply
        return [reply for reply in replies if isinstance(reply, Reply)]

    def _score_items(self, label: Label, config: ScoreConfig) -> list[Item]:
        if label.status == "unclear":
            return []
        judge = self._judging.client.name if self._judging else None
        known = known_scores(self.store, label, config, judge)
        items = []
        for method in config.methods:
            if method not in known and needs_judge(method):
                with suppress(LeftOut):
                    sitting = self._sitting(label, method, config)
                    items += [Item(label.feature, f"score:{method}", request) for request, _ in sitting.parts]
        return items

    async def _controlled(self) -> None:
        """Labels of other features on these trials, for the report."""
        assert self.config.score is not None, "controls are part of scoring"
        for method, claim in wrong_labels(self._rows, self.config.score):
            if self._stop is not None:
                return
            with suppress(LeftOut):
                sitting = self._sitting(claim, method, self.config.score)
                replies = await self._judged(sitting, f"control:{method}")
                assert self._judging is not None, "a method that needs a judge has one"
                grade = grade_alone(sitting, replies, self._judging.client.name)
                if grade.score is not None:
                    self._controls.setdefault(method, []).append(grade.score)

    def _place_of(self, row: FeatureRow) -> int:
        return self._place[row.feature if self.config.explain or row.label_id is None else row.label_id]

    # how far it is

    def _add(self, row: FeatureRow) -> None:
        self._rows.append(row)
        self._tell()

    def _tell(self, last: bool = False) -> None:
        now = time.monotonic()
        self._advance(len(self._rows), len(self.tasks))
        if last or now - self._told > TELL_SECONDS:
            self._told = now
            counts = Counter(row.state.replace(" ", "_") for row in self._rows)
            self.run.progress(len(self._rows), len(self.tasks), counts)


def tasks_of(features: Sequence[int], labels: Sequence[Label] | None) -> list[Task]:
    """A task a feature, or one a label of these features.

    Raises:
        BadInput: none of the features has such a label.
    """
    if labels is None:
        return [Task(feature) for feature in features]
    place = {feature: i for i, feature in enumerate(features)}
    chosen = sorted(
        (label for label in labels if label.feature in place), key=lambda label: place[label.feature]
    )
    if not chosen:
        raise BadInput(
            "none of these features has such a label; `saeinterp label list` shows those there are, and "
            "`saeinterp-pipeline explain` writes drafts"
        )
    return [Task(label.feature, label) for label in chosen]
