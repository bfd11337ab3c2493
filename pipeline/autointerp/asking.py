"""How a run asks: its clients under one budget, one question at a time or in batches, until somebody stops it."""

import asyncio
import signal
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TypeVar

from pipeline.autointerp.config import Execution, RunConfig
from saeinterp_mcp.asking.asker import Asker
from saeinterp_mcp.asking.batches import BatchPace
from saeinterp_mcp.asking.budget import Account, BudgetReached, Spent, size_of, total
from saeinterp_mcp.asking.calls import Item, calls_of_run, spent_by_feature
from saeinterp_mcp.asking.prices import load_prices
from saeinterp_mcp.asking.runs import Run
from saeinterp_mcp.clients.base import BatchClient, Reply, Request
from saeinterp_mcp.clients.open_client import open_client
from saeinterp_mcp.errors import BadInput, SaeInterpError, Unavailable

T = TypeVar("T")


class StoppedByUser(SaeInterpError):
    """Nothing new is asked any more."""


def check_can_ask(config: RunConfig, execution: Execution) -> None:
    """Refuse, before anything is claimed or written down, what could not be asked.

    Raises:
        BadInput: no such client, one without batches where they are wanted, a ceiling in dollars and an unknown price.
        Unavailable: a package or a key is missing.
    """
    prices = load_prices(execution.prices)
    for spec in dict.fromkeys(spec for spec in specs_of(config) if spec is not None):
        client = open_client(spec)
        if execution.batch and not isinstance(client, BatchClient):
            raise BadInput(
                f"{client.name} knows no message batches; leave --batch out, or take anthropic:MODEL or openai:MODEL"
            )
        Account(execution.budget, prices.of(client.name))
        if (reason := client.why_not()) is not None:
            raise Unavailable(f"{client.name} cannot be asked here: {reason}")


def specs_of(config: RunConfig) -> tuple[str | None, str | None]:
    """Clients that explain and that judge."""
    return config.explain.model if config.explain else None, config.score.judge if config.score else None


class Questions:
    """The askers of a run, and why it has to stop."""

    def __init__(self, run: Run, execution: Execution) -> None:
        self.run, self.execution = run, execution
        self.stop: str | None = None
        """Why nothing new is asked."""
        self._halt = asyncio.Event()
        self._slots = asyncio.Semaphore(execution.concurrency)
        self._tried: set[Asker] = set()

    async def open(self, stack: AsyncExitStack, specs: Sequence[str | None]) -> list[Asker | None]:
        """One asker for each client; both of one model are one. They share the ceilings."""
        by_spec: dict[str, Asker] = {}
        account: Account | None = None
        prices = load_prices(self.execution.prices)
        for spec in dict.fromkeys(spec for spec in specs if spec is not None):
            # the SDK's own second try could be a second payment
            client = open_client(spec, max_retries=0) if self.execution.never_repeat else open_client(spec)
            rate = prices.of(client.name)
            if account is None:
                before = self.run.ledger.look(lambda c: list(calls_of_run(c, self.run.run)))
                account = Account(self.execution.budget, rate, spent_by_feature(before, rate))
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
        return [None if spec is None else by_spec[spec] for spec in specs]

    async def ask(self, asker: Asker, item: Item) -> Reply:
        """The reply to one question; in a run by batches it has been asked ahead, and is never asked alone.

        Raises:
            BudgetReached: there is no room for it.
            SaeInterpError: the asker has stopped, or the user has stopped the run.
        """
        if self.execution.batch:
            return await self._unless_stopped(self._in_batch(asker, item))
        async with self._slots:  # of both clients together
            self._refuse_if_stopped()
            return await asker.ask(*item)

    def check_room(self, asker: Asker, feature: int, requests: Sequence[Request]) -> None:
        """Refuse a test that a ceiling of the feature would cut off in the middle: half a test is paid for nothing.

        Raises:
            BudgetReached: the feature has no room for all of it.
        """
        known = self.run.ledger.answered([request.key(asker.client.name) for request in requests])
        left = [request for request in requests if request.key(asker.client.name) not in known]
        more = total(size_of(request).worth(asker.rate, self.execution.batch) for request in left)
        if not left:
            return
        try:
            asker.account.reserve_now(feature, more)
        except BudgetReached as reached:
            if reached.per == "feature":
                raise
        else:
            asker.account.settle(feature, more, Spent())

    async def ahead(self, asker: Asker, items: Sequence[Item]) -> None:
        """Put questions into batches, and wait until all that a ceiling leaves room for are answered."""
        left = list(items)
        if asker not in self._tried and (first := self._unanswered(asker, left)) is not None:
            # alone: what the model refuses (an option, a key) is learnt before thousands are handed in
            self._tried.add(asker)
            with suppress(BudgetReached):
                await self._unless_stopped(asker.ask(*first))
        while left:
            replies = await self._unless_stopped(asker.ask_batch(left))
            no_room = [item for item, reply in zip(left, replies, strict=True) if reply.reason == "budget"]
            if len(no_room) == len(left):
                return
            left = no_room  # estimates are at most: what came back took less, and there may be room again

    def _unanswered(self, asker: Asker, items: Sequence[Item]) -> Item | None:
        """The first that was never sent; None where there are not several, so that there is nothing to learn for.

        What was sent before may be in a batch that is under way, and is left to it.
        """
        keys = [item.request.key(asker.client.name) for item in items]
        known = self.run.ledger.answered(keys)
        left = [(item, key) for item, key in zip(items, keys, strict=True) if key not in known]
        new = (item for item, key in left if asker.newest(key) is None)
        return next(new, None) if len(left) > 1 else None

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Ctrl-C or SIGTERM: nothing new is asked, and what is under way is waited for, because it is paid for.

        A batch goes on without us. A second signal ends the process at once.
        """
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)

        def stop() -> None:
            self.stop = self.stop or "stopped by the user"
            self._halt.set()
            for number in numbers:
                loop.remove_signal_handler(number)

        with suppress(RuntimeError, ValueError):  # not in the main thread
            for number in numbers:
                loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            with suppress(RuntimeError, ValueError):
                for number in numbers:
                    loop.remove_signal_handler(number)

    async def _in_batch(self, asker: Asker, item: Item) -> Reply:
        while True:
            [reply] = await asker.ask_batch([item])
            if reply.reason != "budget":
                return reply
            more = size_of(item.request).worth(asker.rate, batch=True)
            asker.account.reserve_now(item.feature, more)  # says which ceiling it is
            asker.account.settle(item.feature, more, Spent())

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """What `work` gives, unless the user does not want to wait for it."""
        task, halt = asyncio.ensure_future(work), asyncio.ensure_future(self._halt.wait())
        try:
            await asyncio.wait({task, halt}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                self._refuse_if_stopped()
            return task.result()
        finally:
            halt.cancel()

    def _refuse_if_stopped(self) -> None:
        if self._halt.is_set():
            raise StoppedByUser(self.stop or "stopped")
