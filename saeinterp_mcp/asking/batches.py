"""Message batches: written down before they are handed in, and found again whatever happens in between.

A batch is written with a mark of ours and the ids of its requests, each with the number of its call; then it is handed
in; then the provider's id is written. Killed before that, the next run asks the provider for the mark and the ids.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from saeinterp_mcp.asking import calls
from saeinterp_mcp.asking.budget import BudgetReached, Spent, size_of
from saeinterp_mcp.asking.calls import Call, Item
from saeinterp_mcp.clients.base import BatchClient, BatchState, NotKnownYet, Reply
from saeinterp_mcp.errors import BadInput, SaeInterpError, Unavailable
from saeinterp_mcp.fingerprint import fingerprint
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.labels.database import now

if TYPE_CHECKING:
    import sqlite3

    from saeinterp_mcp.asking.asker import Asker

T = TypeVar("T")
KEPT_SECONDS = 29 * 86_400
"""How long providers keep the results of a batch."""
log = logging.getLogger(__name__)


class BatchPace(Frozen):
    """How batches are cut, and how often they are looked at."""

    max_requests: PositiveInt = 10_000
    max_bytes: PositiveInt = 50_000_000
    """Of the texts; both are well below what providers take, so that one bad batch is not everything."""
    poll_seconds: PositiveFloat = 20.0
    """Before the first look; each wait is half as long again."""
    max_poll_seconds: PositiveFloat = 300.0
    found_after_seconds: NonNegativeFloat = 120.0
    """A batch that the provider does not know that long after it was handed in was never taken."""
    max_errors: PositiveInt = 10
    """Looks in a row that fail."""


class BatchRow(NamedTuple):
    """A batch as it is written down."""

    batch: int
    mark: str
    run: str
    client: str
    batch_id: str | None
    state: Literal["handing_in", "handed_in", "collected", "lost"]
    made_at: str


class Batches:
    """The batches of one asker."""

    def __init__(self, asker: "Asker") -> None:
        """Raises BadInput where the client knows no batches."""
        if not isinstance(asker.client, BatchClient):
            raise BadInput(
                f"{asker.client.name} knows no message batches; ask one by one, or take anthropic:MODEL or openai:MODEL"
            )
        self._asker, self._client = asker, asker.client
        self._ledger, self._pace = asker.ledger, asker.pace or BatchPace()
        self._held = dict[str, tuple[int, Spent]]()
        """Question to what is set aside for it."""
        self._handed_here = set[int]()
        self._settling = dict[int, asyncio.Task[None]]()

    async def ask(self, items: Sequence[Item]) -> list[Reply]:
        """See `Asker.ask_batch`."""
        keys = [item.request.key(self._client.name) for item in items]
        rest = dict(zip(keys, items, strict=True))
        replies = dict[str, Reply]()
        while True:
            for key in rest:
                await self._asker.wait_for_another(key)
            replies |= {key: known for key in rest if (known := self._asker.known(key)) is not None}
            rest = {key: item for key, item in rest.items() if key not in replies}
            if not rest:
                return [replies[key] for key in keys]
            self._asker.refuse_if_stopped()
            no_room = self._reserve(rest)
            replies |= no_room
            rest = {key: item for key, item in rest.items() if key not in no_room}
            await self._hand_in_and_wait(rest)
            self._asker.refuse_if_stopped()  # what came is on record

    async def settle(self, batch: int) -> None:
        """Wait until a batch has ended, and write down what came of it: its questions are settled then."""
        task = self._settling.get(batch)
        if task is None:
            task = self._settling[batch] = asyncio.create_task(self._settle(batch))
            task.add_done_callback(lambda done: self._settling.pop(batch, None) and done.cancelled())
        await asyncio.shield(task)

    async def close(self) -> None:
        """Stop waiting: a batch goes on without us, and is collected by the next run that wants what is in it."""
        waiting = list(self._settling.values())
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def _reserve(self, items: Mapping[str, Item]) -> dict[str, Reply]:
        """Set room aside; the replies to what there is none for."""
        no_room = dict[str, Reply]()
        for key, item in items.items():
            more = size_of(item.request).worth(self._asker.rate, batch=True)
            try:
                self._asker.account.reserve_now(item.feature, more)
            except BudgetReached as reached:
                no_room[key] = Reply(outcome="failed", reason="budget", detail=str(reached))
            else:
                self._held[key] = (item.feature, more)
        return no_room

    async def _hand_in_and_wait(self, items: Mapping[str, Item]) -> None:
        """In as many batches as it takes."""
        handed = list[int]()
        try:
            for part in self._parts(items):
                self._asker.refuse_if_stopped()
                # in a task of its own: cancelled halfway, nobody would know whether it was taken
                handed.append(await asyncio.shield(self._asker.keep(self._hand_in(part))))
            await asyncio.gather(*(self.settle(batch) for batch in handed))
        finally:
            for key in items:
                self._let_go(key, Spent())  # settled ones have let go already

    def _parts(self, items: Mapping[str, Item]) -> Iterator[dict[str, Item]]:
        part, n_bytes = dict[str, Item](), 0
        for key, item in items.items():
            size = len(item.request.model_dump_json())
            if part and (len(part) == self._pace.max_requests or n_bytes + size > self._pace.max_bytes):
                yield part
                part, n_bytes = {}, 0
            part[key] = item
            n_bytes += size
        if part:
            yield part

    async def _hand_in(self, items: Mapping[str, Item]) -> int:
        """Write a batch down, hand it in, and write down under which id; the number of the batch."""
        batch, mark, ids = await self._asker.written(partial(self._write_batch, items=items))
        self._handed_here.add(batch)
        if not ids:
            return batch
        try:
            batch_id = await self._client.submit(
                {name: items[key].request for name, key in ids.items()}, mark
            )
        except NotKnownYet as error:
            log.warning("%s", error)
        except SaeInterpError as error:
            self._asker.stopped = self._asker.stopped or error
            reply = Reply(outcome="failed", reason="not_taken", detail=str(error))
            await self._collected(self._row(batch), dict.fromkeys(ids, reply))
            raise
        else:
            self._asker.n_sent += len(ids)
            await self._asker.written(partial(_handed_in, batch=batch, batch_id=batch_id))
        return batch

    def _write_batch(
        self, connection: "sqlite3.Connection", items: Mapping[str, Item]
    ) -> tuple[int, str, dict[str, str]]:
        """Number, mark, and id of each request to its question; those that somebody else has taken are not in it."""
        run = self._asker.run
        run.touch(connection)
        batch = connection.execute(
            "INSERT INTO batches (run, client, state, n, made_at, changed_at) VALUES (?, ?, 'handing_in', 0, ?, ?)",
            (run.run, self._client.name, now(), now()),
        ).lastrowid
        assert batch is not None, "a row was inserted"
        ids = dict[str, str]()
        for key, item in items.items():
            size = size_of(item.request)
            call = calls.claim(
                connection, run.run, self._client.name, key, item, size, self._asker.never_repeat, batch
            )
            if call is not None:
                ids[f"{key}-{call}"] = key
        mark = f"saeinterp-{fingerprint([run.run, batch, sorted(ids)])}"
        state = "handing_in" if ids else "collected"
        connection.execute(
            "UPDATE batches SET mark = ?, n = ?, state = ? WHERE id = ?", (mark, len(ids), state, batch)
        )
        return batch, mark, ids

    async def _settle(self, batch: int) -> None:
        row = self._row(batch)
        try:
            if row.state == "handing_in" and (row := await self._found(row)).state == "lost":
                return
            if row.state != "handed_in" or row.batch_id is None:
                return
            await self._until_it_has_ended(row.batch_id)
            replies = await self._patiently(partial(self._client.collect, row.batch_id))
        except Unavailable:
            if _age_seconds(row.made_at) < KEPT_SECONDS:
                raise
            await self._lost(row)  # its results are gone for good
            return
        await self._collected(row, replies)

    async def _found(self, row: BatchRow) -> BatchRow:
        """A batch of which we do not know whether it was taken, once we do."""
        of_batch = self._ledger.look(lambda c: calls.calls_of_batch(c, row.batch))
        ids = frozenset(f"{call.key}-{call.call}" for call in of_batch)
        for wait in self._waits():
            try:
                batch_id = await self._patiently(partial(self._client.find, row.mark, ids, row.made_at))
            except NotKnownYet as error:
                log.info("%s", error)
            else:
                if batch_id is not None:
                    await self._asker.written(partial(_handed_in, batch=row.batch, batch_id=batch_id))
                    return self._row(row.batch)
                if _age_seconds(row.made_at) >= self._pace.found_after_seconds:
                    await self._lost(row)
                    return self._row(row.batch)
            await asyncio.sleep(wait)
        raise AssertionError("it waits without end")

    async def _until_it_has_ended(self, batch_id: str) -> None:
        for wait in self._waits():
            state: BatchState = await self._patiently(partial(self._client.state, batch_id))
            if self._asker.on_batch is not None:
                self._asker.on_batch(state)
            if state.ended:
                return
            await asyncio.sleep(wait)

    async def _patiently(self, look: "Callable[[], Awaitable[T]]") -> T:
        """What the provider says, some failures later: a batch is worth hours."""
        n_errors = 0
        for wait in self._waits():
            try:
                return await look()
            except NotKnownYet:
                raise
            except Unavailable as error:
                n_errors += 1
                if n_errors >= self._pace.max_errors:
                    raise
                log.warning("%s", error)
            await asyncio.sleep(wait)
        raise AssertionError("it waits without end")

    async def _collected(self, row: BatchRow, replies: Mapping[str, Reply]) -> None:
        """Write down what came of a batch, all of it or nothing, and count it."""
        settled = await self._asker.written(partial(self._write_down, row=row, replies=replies))
        for call, reply in settled:
            spent = calls.worth(reply, call.size, self._asker.rate, batch=True)
            if not self._let_go(call.key, spent) and call.run == self._asker.run.run:
                self._asker.account.correct(call.feature, call.worth(self._asker.rate), spent)
            if row.batch in self._handed_here:
                self._asker.saw(call.key, reply)
        reason = self._asker.watch.saw_batch([reply for _, reply in settled])
        self._asker.stopped = self._asker.stopped or reason

    def _write_down(
        self, connection: "sqlite3.Connection", row: BatchRow, replies: Mapping[str, Reply]
    ) -> list[tuple[Call, Reply]]:
        missing = Reply(
            outcome="failed", reason="missing", detail="the batch has ended without a result for it"
        )
        settled = []
        for call in calls.calls_of_batch(connection, row.batch):
            reply = replies.get(f"{call.key}-{call.call}", missing)
            usd = calls.price_of(reply, self._asker.rate, batch=True)
            if calls.settle(connection, call.call, call.key, reply, usd, None):
                settled.append((call, reply))
        _set_state(connection, row.batch, "collected")
        self._asker.run.touch(connection)
        return settled

    async def _lost(self, row: BatchRow) -> None:
        """The provider has none: what was in it is uncertain, and asked no more than once by one asker."""
        of_batch = self._ledger.look(lambda c: calls.calls_of_batch(c, row.batch))

        def work(connection: "sqlite3.Connection") -> None:
            calls.lose(connection, "batch = ?", row.batch)
            _set_state(connection, row.batch, "lost")

        await self._asker.written(work)
        gone = Reply(
            outcome="failed", reason="batch_lost", detail=f"the provider does not have the batch {row.mark}"
        )
        for call in of_batch:
            self._let_go(call.key, call.worth(self._asker.rate))
            if row.batch in self._handed_here:
                self._asker.saw(call.key, gone)

    def _let_go(self, key: str, spent: Spent) -> bool:
        """Give back what is set aside for a question, if anything is."""
        held = self._held.pop(key, None)
        if held is not None:
            self._asker.account.settle(*held, spent)
        return held is not None

    def _waits(self) -> Iterator[float]:
        wait = self._pace.poll_seconds
        while True:
            yield wait
            wait = min(1.5 * wait, self._pace.max_poll_seconds)

    def _row(self, batch: int) -> BatchRow:
        ask = "SELECT id, mark, run, client, batch_id, state, made_at FROM batches WHERE id = ?"
        return BatchRow._make(self._ledger.look(lambda c: c.execute(ask, (batch,)).fetchone()))


def _handed_in(connection: "sqlite3.Connection", batch: int, batch_id: str) -> None:
    connection.execute("UPDATE batches SET batch_id = ? WHERE id = ?", (batch_id, batch))
    _set_state(connection, batch, "handed_in")


def _set_state(connection: "sqlite3.Connection", batch: int, state: str) -> None:
    connection.execute("UPDATE batches SET state = ?, changed_at = ? WHERE id = ?", (state, now(), batch))


def _age_seconds(made_at: str) -> float:
    return time.time() - datetime.fromisoformat(made_at).timestamp()
