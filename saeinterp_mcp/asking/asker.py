"""The asker: puts questions to one client for one run, each at most once, within a budget."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from saeinterp_mcp.asking import calls
from saeinterp_mcp.asking.budget import Account, Budget, BudgetReached, Spent, size_of
from saeinterp_mcp.asking.calls import Call, Item
from saeinterp_mcp.asking.giving_up import GiveUp, Watch
from saeinterp_mcp.asking.prices import Prices, load_prices
from saeinterp_mcp.asking.runs import Run
from saeinterp_mcp.clients.base import BatchState, Client, Reply, Request
from saeinterp_mcp.errors import SaeInterpError

if TYPE_CHECKING:
    import sqlite3

    from saeinterp_mcp.asking.batches import Batches, BatchPace

T = TypeVar("T")
GRACE_SECONDS = 30.0
"""How long to wait at the end for answers that are under way: they are paid for."""
log = logging.getLogger(__name__)


class Asker:
    """Asks one client for one run. Belongs to one event loop; `async with` waits for what is under way at the end.

    A question whose answer is on record, from any run, is answered from there. Any other is written down before it is
    sent, and with its answer before that is given out; both are on disk. What is cancelled goes on until it is
    answered: it is paid for.
    """

    def __init__(
        self,
        client: Client,
        run: Run,
        budget: Budget | Account | None = None,
        concurrency: int = 8,
        never_repeat: bool = False,
        give_up: GiveUp | None = None,
        prices: Prices | None = None,
        pace: "BatchPace | None" = None,
        on_batch: Callable[[BatchState], None] | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """`budget`: an Account where several askers of a run share one; `never_repeat`: an uncertain question stays
        unanswered; `give_up`: when to stop; `prices`: the shipped table and the user's own where not given; `pace`,
        `on_batch`: how often a batch is looked at, and who is told.

        Raises:
            BadInput: a ceiling in dollars for a client whose price is unknown.
        """
        assert concurrency > 0, "somebody has to ask"
        self.client, self.run, self.ledger = client, run, run.ledger
        self.never_repeat, self.pace, self.on_batch = never_repeat, pace, on_batch
        self.rate = (prices or load_prices()).of(client.name)
        self.account = budget if isinstance(budget, Account) else self._account(budget or Budget())
        self.watch = Watch(give_up or GiveUp())
        self.n_found = 0
        """Answers that were on record."""
        self.n_sent = 0
        self.stopped: SaeInterpError | None = None
        """Why nothing more is asked."""
        self._slots = asyncio.Semaphore(concurrency)
        self._under_way = dict[str, asyncio.Task[Reply]]()
        self._kept = set[asyncio.Task[object]]()
        self._failed = dict[str, Reply]()
        self._grace = grace_seconds
        self._batch_work: Batches | None = None

    async def ask(self, feature: int, purpose: str, request: Request) -> Reply:
        """The reply to a question; a failure is one too (`failed`, with its reason), and is not asked again here.

        Raises:
            BudgetReached: a ceiling; one of the run ends the asker, one of the feature only the feature.
            TooManyFailures: the asker gives up.
            Unavailable: this machine cannot ask.
        """
        key = request.key(self.client.name)
        task = self._under_way.get(key)
        if task is None:
            if (known := self.known(key)) is not None:
                return known
            task = self.keep(self._ask(key, Item(feature, purpose, request)))
            self._under_way[key] = task
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
        return await asyncio.shield(task)

    async def ask_batch(self, items: Sequence[Item | tuple[int, str, Request]]) -> list[Reply]:
        """Replies to many questions, in their order, by the provider's message batches: cheaper, within a day.

        Batches that were left by a run that was killed are collected first. What a ceiling leaves no room for is
        `failed` with reason `budget`, once the rest is there. Cancelled, it goes on at the next start.

        Raises:
            BadInput: the client knows no batches.
            TooManyFailures: more than the share of a batch that `give_up` allows.
            Unavailable: the provider takes no batch, or does not tell what became of one.
        """
        return await self._batches().ask([Item(*item) for item in items])

    async def close(self) -> None:
        """Send nothing more, wait for what is under way, and close the client."""
        self.stopped = self.stopped or SaeInterpError("the asker is closed")
        if self._batch_work is not None:
            await self._batch_work.close()
        waiting = {task for task in self._kept if not task.done()}
        if waiting:
            log.info("waiting up to %g s for %d requests that are under way", self._grace, len(waiting))
            _, late = await asyncio.wait(waiting, timeout=self._grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self.client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def known(self, key: str) -> Reply | None:
        """What needs no asking: an answer on record, a failure of this asker, an uncertain one not to be repeated."""
        reply = self.ledger.look(lambda c: calls.reply_of(c, key))
        if reply is not None:
            self.n_found += 1
            return reply
        if key in self._failed:
            return self._failed[key]
        if self.never_repeat and (last := self.newest(key)) is not None and last.may_be_paid:
            uncertain = last._replace(state="uncertain")
            return uncertain.as_reply()
        return None

    def newest(self, key: str) -> Call | None:
        """The last time that a question was sent, by whoever."""
        return self.ledger.look(lambda c: calls.newest_call(c, key))

    def keep(self, work: Awaitable[T]) -> "asyncio.Task[T]":
        """A task that `close` waits for, whoever else may not."""

        async def kept() -> T:
            return await work

        task = asyncio.create_task(kept())
        self._kept.add(task)

        def forget(done: "asyncio.Task[T]") -> None:
            self._kept.discard(done)
            if not done.cancelled():
                done.exception()  # it is seen: whoever asked may have gone

        task.add_done_callback(forget)
        return task

    def refuse_if_stopped(self) -> None:
        """Raise what stopped it."""
        if self.stopped is not None:
            raise self.stopped

    def saw(self, key: str, reply: Reply) -> None:
        """Remember a failure."""
        if reply.outcome == "failed":
            self._failed[key] = reply

    async def _ask(self, key: str, item: Item) -> Reply:
        while True:
            async with self._slots:
                self.refuse_if_stopped()
                reply = await self._ask_in_slot(key, item)
            if reply is not None:
                return reply
            await self.wait_for_another(key)
            if (known := self.known(key)) is not None:
                return known

    async def _ask_in_slot(self, key: str, item: Item) -> Reply | None:
        """None where somebody else is asking it."""
        size = size_of(item.request)
        reserved = size.worth(self.rate)
        try:
            await self.account.reserve(item.feature, reserved)
        except BudgetReached as reached:
            if reached.per == "run":
                self.stopped = self.stopped or reached
            raise
        spent = Spent()
        try:
            self.refuse_if_stopped()
            claim = partial(
                calls.claim,
                run=self.run.run,
                client=self.client.name,
                key=key,
                item=item,
                size=size,
                never_repeat=self.never_repeat,
            )
            call = await self.written(claim)
            if call is None:
                return self.known(key)
            spent = reserved  # until it is known better
            reply = await self._send(call, key, item.request)
            spent = calls.worth(reply, size, self.rate, batch=False)
        finally:
            self.account.settle(item.feature, reserved, spent)
        if (reason := self.watch.saw(reply)) is not None and self.stopped is None:
            log.warning("%s", reason)
            self.stopped = reason
        self.saw(key, reply)
        return reply

    async def _send(self, call: int, key: str, request: Request) -> Reply:
        """Send what is written down, and write down what comes of it."""
        self.n_sent += 1
        began = time.monotonic()
        try:
            reply = await self.client.ask(request)
        except SaeInterpError as error:
            self.stopped = self.stopped or error
            reply = Reply(outcome="failed", reason="unavailable", detail=str(error))
            await self._settled(call, key, reply, None)
            raise
        except BaseException as error:  # cancelled at the end, or a bug: nobody will know what came of it
            self.ledger.submit(partial(calls.lose, where="id = ?", value=call))
            if not isinstance(error, asyncio.CancelledError):
                self.stopped = self.stopped or SaeInterpError(f"the client fell over: {error!r}")
            raise
        await self._settled(call, key, reply, time.monotonic() - began)
        return reply

    async def _settled(self, call: int, key: str, reply: Reply, seconds: float | None) -> None:
        usd = calls.price_of(reply, self.rate, batch=False)

        def work(connection: "sqlite3.Connection") -> None:
            calls.settle(connection, call, key, reply, usd, seconds)
            self.run.touch(connection)

        await self.written(work)

    async def written(self, work: "Callable[[sqlite3.Connection], T]") -> T:
        """What `work` gives, once it is on disk. Nothing is asked any more where it cannot be written."""
        written: Future[T] = self.ledger.submit(work)
        try:
            return await asyncio.wrap_future(written)
        except SaeInterpError as error:
            self.stopped = self.stopped or error
            raise

    async def wait_for_another(self, key: str) -> None:
        """Until a question that somebody else is asking is answered, or they are dead; left batches are collected."""
        wait = 0.02
        while (last := self.newest(key)) is not None and last.state == "sent":
            self.refuse_if_stopped()
            ours = last.run == self.run.run
            if last.batch is not None and (ours or not self.ledger.lives(last.run)):
                await self._batches().settle(last.batch)
            elif not ours and last.batch is None and self.ledger.bury(last.run):
                return
            else:
                await asyncio.sleep(wait)
                wait = min(2 * wait, 1.0)

    def _batches(self) -> "Batches":
        from saeinterp_mcp.asking.batches import Batches

        if self._batch_work is None:
            self._batch_work = Batches(self)
        return self._batch_work

    def _account(self, budget: Budget) -> Account:
        before = self.ledger.look(lambda c: list(calls.calls_of_run(c, self.run.run)))
        return Account(budget, self.rate, calls.spent_by_feature(before, self.rate))


def ask_all(asker: Asker, items: Sequence[Item | tuple[int, str, Request]]) -> list[Reply]:
    """Replies in the order of the items, asked at once on an event loop of this thread's own; the asker is closed then.

    For operations, which are synchronous. What one of them raises is raised, after what is under way is on record.
    """

    async def work() -> list[Reply]:
        async with asker:
            return await asyncio.gather(*(asker.ask(*item) for item in items))

    return asyncio.run(work())
