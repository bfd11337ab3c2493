"""A run: features explained and their labels scored, many at once, until done or stopped; killed, it goes on."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Final, NamedTuple

from pipeline.autointerp.asking import Questions, specs_of
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
    n_answered,
    needs_judge,
    prepare,
    score_without_judge,
)
from saeinterp_mcp.asking.budget import BudgetReached
from saeinterp_mcp.asking.calls import Item
from saeinterp_mcp.asking.runs import Run
from saeinterp_mcp.clients.base import Reply, Request
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
        self._told = 0.0
        self._place = {task.label.label_id if task.label else task.feature: i for i, task in enumerate(tasks)}
        self._explainer = explainer_of(config.explain) if config.explain else None
        self._source = source_of(store, config.explain) if config.explain else ""
        self._drafts = drafts_of(store, self._source) if config.explain else {}

    async def carry_out(self) -> Outcome:
        """Work until everything is done, a ceiling or too many failures end it, or somebody stops it."""
        asked = self._questions = Questions(self.run, self.execution)
        async with AsyncExitStack() as stack:
            self._explaining, self._judging = await asked.open(stack, specs_of(self.config))
            with asked.stoppable():
                if self.execution.batch:
                    await self._by_batches()
                else:
                    await self._all(self.tasks)
                self._rows.sort(key=self._place_of)
                if asked.stop is None and self.config.score and self.config.score.n_controls:
                    await self._work(self._controlled)
        self._tell(last=True)
        return Outcome(self._rows, self._controls, self._untested, asked.stop)

    # the order of work

    async def _all(self, tasks: Sequence[Task]) -> None:
        todo = iter(tasks)

        async def worker() -> None:
            for task in todo:
                if self._questions.stop is not None:
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
            if self._questions.stop is None and await self._work(lambda wave=wave: self._ask_ahead(wave)):  # type: ignore[misc]
                await self._all(wave)

    async def _ask_ahead(self, wave: Sequence[Task]) -> None:
        if self._explaining is not None:
            items = [item for task in wave for item in self._explain_items(task)]
            if items:
                await self._questions.ahead(self._explaining, items)
        if self._judging is not None and self.config.score is not None:
            asked: list[Item] = []
            for task in wave:
                with suppress(LeftOut):
                    label = await self._label(task)
                    asked += self._score_items(label, self.config.score)
            if asked:
                await self._questions.ahead(self._judging, asked)

    async def _work(self, work: "Callable[[], object]") -> bool:
        """Do one thing; False where the run has to end, which it then does once the others are through with theirs."""
        try:
            await work()  # type: ignore[misc]
        except SaeInterpError as error:
            self._questions.stop = self._questions.stop or str(error)
            return False
        return True

    # one task

    async def _task(self, task: Task) -> None:
        try:
            label = await self._label(task)
        except LeftOut as left:
            self._add(FeatureRow(feature=task.feature, state="left out", reason=str(left)))
            return
        scores: list[MethodScore] = []
        ended: SaeInterpError | None = None
        if label.status != "unclear" and self.config.score is not None:
            try:
                scores = await self._scores(label, self.config.score)
            except SaeInterpError as error:  # the draft is there and paid for, and is told of
                self._untested["all methods: the run ended before"] += 1
                ended = error
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
        if ended is not None:
            raise ended

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
            reply = await self._questions.ask(self._explaining, Item(feature, PURPOSE, request))
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
        known = self._known(label, config)
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

    def _known(self, label: Label, config: ScoreConfig) -> dict[str, MethodScore]:
        """Scores on record, without those that wait for an answer that a provider never gave."""
        judge = self._judging.client.name if self._judging else None
        found = known_scores(self.store, label, config, judge)
        return {
            method: found[method]
            for method in config.methods
            if method in found and not self._lacks_answers(label, method, found[method], config)
        }

    def _lacks_answers(self, label: Label, method: Method, score: MethodScore, config: ScoreConfig) -> bool:
        if not score.n_failed or self._judging is None:
            return False
        with suppress(LeftOut):
            sitting = self._sitting(label, method, config)
            return n_answered(sitting, self.run.ledger, self._judging.client.name) != score.n
        return False

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
        try:
            self._questions.check_room(asker, feature, [request for request, _ in sitting.parts])
        except BudgetReached as reached:
            raise LeftOut("ceiling of the feature") from reached
        asked = [self._questions.ask(asker, Item(feature, purpose, request)) for request, _ in sitting.parts]
        replies = await asyncio.gather(*asked, return_exceptions=True)
        for reply in replies:
            if isinstance(reply, BudgetReached) and reply.per == "feature":
                raise LeftOut("ceiling of the feature") from reply
            if isinstance(reply, BaseException):
                raise reply
        found = [reply for reply in replies if isinstance(reply, Reply)]
        if asker.stopped is not None and any(reply.outcome == "failed" for reply in found):
            raise asker.stopped  # what failed is asked again by the next start, so this is no test yet
        return found

    def _score_items(self, label: Label, config: ScoreConfig) -> list[Item]:
        if label.status == "unclear":
            return []
        known = self._known(label, config)
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
        assert self._judging is not None, "a method with a claim has a judge"
        sittings: list[tuple[Method, Sitting]] = []
        for method, claim in wrong_labels(self._rows, self.config.score):
            with suppress(LeftOut):
                sittings.append((method, self._sitting(claim, method, self.config.score)))
        if self.execution.batch:
            items = [
                Item(sitting.test.feature, f"control:{method}", request)
                for method, sitting in sittings
                for request, _ in sitting.parts
            ]
            await self._questions.ahead(self._judging, items)
        for method, sitting in sittings:
            with suppress(LeftOut):
                replies = await self._judged(sitting, f"control:{method}")
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
