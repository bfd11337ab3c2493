"""Questions are asked once, in an order that fits the limits, and what goes wrong is said."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from saeinterp_mcp.asking.asker import Asker, ask_all
from saeinterp_mcp.asking.budget import Account, Budget, BudgetReached
from saeinterp_mcp.asking.giving_up import GiveUp, TooManyFailures
from saeinterp_mcp.asking.ledger import Ledger
from saeinterp_mcp.asking.prices import load_prices
from saeinterp_mcp.asking.runs import Run
from saeinterp_mcp.clients.base import Client, Outcome, Reply, Request, Usage
from saeinterp_mcp.errors import BadInput, SaeInterpError, Unavailable
from tests.asking.provider import NAME, question, replied

Behave = Callable[[int, Request], Reply]


class Scripted(Client):
    """Answers as it is told, by the number of the question; what it does is seen by a second way, `seen`."""

    def __init__(self, behave: Behave | None = None, name: str = NAME, turns: int = 1) -> None:
        self.name, self._behave, self._turns = (
            name,
            behave or (lambda _, request: replied(request.user)),
            turns,
        )
        self.asked = list[str]()
        self.at_once = self.most_at_once = 0
        self.closed = False

    async def ask(self, request: Request) -> Reply:
        self.asked.append(request.user)
        n = len(self.asked)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        for _ in range(self._turns):
            await asyncio.sleep(0)
        self.at_once -= 1
        return self._behave(n, request)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "store.runs.sqlite")) as one:
        yield one


@contextmanager
def a_run(ledger: Ledger, name: str = "one") -> Iterator[Run]:
    with ledger.begin("test", {"name": name}, "lineage", "fingerprint") as run:
        yield run


def asked(
    client: Client, run: Run, *numbers: int, feature: int | None = None, **settings: object
) -> list[Reply]:
    asker = Asker(client, run, **settings)  # type: ignore[arg-type]
    return ask_all(asker, [(i if feature is None else feature, "test", question(i)) for i in numbers])


def failure(reason: str) -> Reply:
    return Reply(outcome="failed", reason=reason, detail=f"the provider's words about {reason}")


def test_an_answer_on_record_is_given_again_in_any_run_and_never_paid_for_twice(ledger: Ledger) -> None:
    client, other = Scripted(), Scripted()
    with a_run(ledger) as run:
        first = asked(client, run, 1, 2, 3)
        assert asked(client, run, 2, 3) == first[1:]
    with a_run(ledger, "other") as run:
        asker = Asker(other, run)
        assert ask_all(asker, [(9, "another purpose", question(i)) for i in (1, 2, 3)]) == first
        assert (asker.n_found, asker.n_sent) == (3, 0)
    assert (client.asked, other.asked) == (["question 1", "question 2", "question 3"], [])
    assert client.closed
    assert first[0] == replied("question 1"), "as it came, whole"
    with a_run(ledger, "other") as run:
        asked(Scripted(name="anthropic:claude-opus-5"), run, 1)
    n_calls = {status.config["name"]: status.n_calls for status in ledger.runs_of("lineage")}
    assert n_calls == {"one": 3, "other": 1}, "another model is another question"


def test_the_same_question_at_once_is_sent_once_and_answered_to_all(ledger: Ledger) -> None:
    client = Scripted()
    with a_run(ledger) as run:
        replies = asked(client, run, *[7] * 20)
    assert client.asked == ["question 7"]
    assert replies == [replied("question 7")] * 20


@pytest.mark.parametrize("outcome", ["refused", "truncated", "invalid"])
def test_what_was_paid_for_is_kept_whatever_it_is(ledger: Ledger, outcome: Outcome) -> None:
    reply = Reply(
        outcome=outcome, text="no \ud800".encode("utf-8", "replace").decode(), usage=Usage(input_tokens=5)
    )
    client = Scripted(lambda *_: reply)
    with a_run(ledger) as run:
        assert asked(client, run, 1) == asked(client, run, 1) == [reply]
    assert len(client.asked) == 1
    (status,) = ledger.runs_of("lineage")
    assert (status.n_answered, status.n_failed, status.input_tokens) == (1, {outcome: 1}, 5)


def test_a_failure_is_not_tried_again_by_the_asker_but_by_the_next_run(ledger: Ledger) -> None:
    client = Scripted(lambda n, request: failure("rate_limit") if n == 1 else replied(request.user))
    with a_run(ledger) as run:
        asker = Asker(client, run)

        async def twice() -> list[Reply]:
            async with asker:
                return [await asker.ask(1, "test", question(1)), await asker.ask(1, "test", question(1))]

        assert asyncio.run(twice()) == [failure("rate_limit")] * 2
    assert len(client.asked) == 1
    with a_run(ledger) as run:
        assert asked(client, run, 1) == [replied("question 1")]
    (status,) = ledger.runs_of("lineage")
    assert (status.n_calls, status.n_failed, status.n_asked_again) == (2, {"rate_limit": 1}, 0)


@pytest.mark.parametrize(("reason", "n_asked"), [("timeout", 1), ("connection", 1), ("rate_limit", 2)])
def test_never_repeat_leaves_failures_alone_that_may_have_been_paid_for(
    ledger: Ledger, reason: str, n_asked: int
) -> None:
    client = Scripted(lambda *_: failure(reason))
    for _ in range(2):
        with a_run(ledger) as run:
            (reply,) = asked(client, run, 1, never_repeat=True)
    assert len(client.asked) == n_asked
    assert reply.outcome == "failed"
    if n_asked == 1:
        assert reply.reason == "uncertain"
        assert str(reply.detail).startswith("sent at 20")
        assert str(reply.detail).endswith("it may have been paid for, and is not to be repeated")


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_are_under_way_than_allowed(ledger: Ledger, concurrency: int) -> None:
    client = Scripted(turns=400)
    with a_run(ledger) as run:
        asked(client, run, *range(30), concurrency=concurrency)
    assert client.most_at_once == concurrency


def test_a_question_is_on_disk_before_it_leaves_and_its_answer_before_it_is_given_out(ledger: Ledger) -> None:
    """Seen by another connection, as another program would."""
    states = list[str]()

    def state() -> str:
        with closing(sqlite3.connect(ledger.path)) as connection:
            ask = "SELECT state, reply IS NOT NULL FROM calls JOIN requests USING (key)"
            return str(connection.execute(ask).fetchall())

    def behave(_: int, request: Request) -> Reply:
        states.append(state())
        return replied(request.user)

    with a_run(ledger) as run:
        asked(Scripted(behave), run, 1)
        states.append(state())
    assert states == ["[('sent', 0)]", "[('answered', 1)]"]


@pytest.mark.parametrize(
    ("fails", "n_asked", "words"),
    [
        (lambda n: n > 5, 15, "10 requests in a row failed; failures so far: overloaded 10"),
        (
            lambda n: n % 5 in (0, 2, 4),
            20,
            "12 of the last 20 requests failed; failures so far: overloaded 12",
        ),
        (lambda n: n % 2 == 0, 100, None),
        (lambda n: n % 3 == 0, 100, None),
    ],
)
def test_a_run_that_fails_too_often_stops_and_counts_why(
    ledger: Ledger, fails: Callable[[int], bool], n_asked: int, words: str | None
) -> None:
    client = Scripted(lambda n, request: failure("overloaded") if fails(n) else replied(request.user))
    with a_run(ledger) as run:
        if words is None:
            asked(client, run, *range(100), concurrency=1)
        else:
            with pytest.raises(TooManyFailures, match=words) as stopped:
                asked(client, run, *range(100), concurrency=1)
            assert "The last one: the provider's words about overloaded." in str(stopped.value)
            assert "start again to go on from here" in str(stopped.value)
    assert len(client.asked) == n_asked


@pytest.mark.parametrize("reason", ["authentication", "unknown_model", "no_credit"])
def test_a_failure_that_no_other_question_would_be_spared_stops_at_once(ledger: Ledger, reason: str) -> None:
    client = Scripted(lambda *_: failure(reason))
    with a_run(ledger) as run, pytest.raises(TooManyFailures, match=f"the provider says {reason}"):
        asked(client, run, *range(50), concurrency=4)
    assert len(client.asked) <= 4, "those that were under way"


def test_answers_that_are_of_no_use_stop_a_run_too(ledger: Ledger) -> None:
    client = Scripted(lambda *_: Reply(outcome="truncated", usage=Usage(output_tokens=100)))
    with (
        a_run(ledger) as run,
        pytest.raises(TooManyFailures, match="10 requests in a row failed; failures so far: truncated 10"),
    ):
        asked(client, run, *range(50), concurrency=1, give_up=GiveUp(share=0.9))
    assert len(client.asked) == 10


def test_a_ceiling_of_calls_ends_the_run_where_it_is_and_raised_it_goes_on(ledger: Ledger) -> None:
    client = Scripted()
    for ceiling, n in ((5, 5), (5, 5), (8, 8)):
        with a_run(ledger) as run:
            asker = Asker(client, run, Budget(max_calls=ceiling))
            with pytest.raises(
                BudgetReached, match=f"the ceiling of {ceiling} calls for this run is reached"
            ):
                ask_all(asker, [(i, "test", question(i)) for i in range(30)])
            assert asker.account.spent.calls == ceiling
        assert len(client.asked) == n, "what was spent before counts"


def test_a_ceiling_of_a_feature_ends_only_the_feature(ledger: Ledger) -> None:
    client = Scripted()
    with a_run(ledger) as run:
        asker = Asker(client, run, Budget(max_calls_per_feature=2))

        async def work() -> list[Reply | BaseException]:
            async with asker:
                return await asyncio.gather(
                    *(asker.ask(i % 2, "test", question(i)) for i in range(6)), return_exceptions=True
                )

        replies = asyncio.run(work())
    assert [isinstance(reply, BudgetReached) for reply in replies] == [False] * 4 + [True] * 2
    assert ledger.costs_of(run.run)[0].n_calls == ledger.costs_of(run.run)[1].n_calls == 2


def test_two_askers_of_a_run_share_an_account(ledger: Ledger) -> None:
    one, other = Scripted(), Scripted(name="anthropic:claude-opus-5")
    with a_run(ledger) as run:
        account = Account(Budget(max_calls=5), load_prices().of(NAME))
        asked(one, run, 1, 2, 3, budget=account)
        with pytest.raises(BudgetReached):
            asked(other, run, 1, 2, 3, budget=account)
    assert len(one.asked) + len(other.asked) == 5


@pytest.mark.parametrize("most", [0.001, 0.01, 0.02])
def test_a_ceiling_in_dollars_holds_where_estimates_do(ledger: Ledger, most: float) -> None:
    client = Scripted(lambda *_: Reply(outcome="answered", usage=Usage(input_tokens=40, output_tokens=100)))
    with a_run(ledger) as run, pytest.raises(BudgetReached):
        asked(client, run, *range(200), budget=Budget(max_usd=most), concurrency=8)
    (status,) = ledger.runs_of("lineage")
    each = (40 * 1 + 100 * 5) / 1e6
    assert status.usd == pytest.approx(len(client.asked) * each)
    assert status.usd is not None
    assert most - 0.0008 < status.usd <= most, "one more might have crossed it"


def test_what_may_have_been_paid_for_counts_against_a_ceiling(ledger: Ledger) -> None:
    client = Scripted(lambda *_: failure("timeout"))
    with a_run(ledger) as run, pytest.raises(BudgetReached, match="ceiling of 320 tokens"):
        asked(client, run, *range(9), concurrency=1, budget=Budget(max_tokens=320))
    assert len(client.asked) == 2, "each is estimated at 152 tokens"
    with a_run(ledger) as run, pytest.raises(BudgetReached):
        asked(client, run, 20, budget=Budget(max_tokens=320))
    with a_run(ledger) as run:
        asked(Scripted(), run, 20, budget=Budget(max_tokens=480))


def test_a_client_that_cannot_ask_here_ends_the_run_with_its_words(ledger: Ledger) -> None:
    def behave(*_: object) -> Reply:
        raise Unavailable("the key is missing; set IT")

    with a_run(ledger) as run, pytest.raises(Unavailable, match="the key is missing; set IT"):
        asked(Scripted(behave), run, *range(5), concurrency=2)
    (status,) = ledger.runs_of("lineage")
    assert status.n_under_way == 0
    assert set(status.n_failed) == {"unavailable"}


def test_a_client_that_falls_over_leaves_an_uncertain_call_and_stops_the_rest(ledger: Ledger) -> None:
    def behave(*_: object) -> Reply:
        raise ZeroDivisionError("a bug")

    client = Scripted(behave)
    with a_run(ledger) as run, pytest.raises(ZeroDivisionError):
        asked(client, run, *range(5), concurrency=1)
    assert len(client.asked) == 1
    (status,) = ledger.runs_of("lineage")
    assert (status.n_uncertain, status.n_under_way) == (1, 0)


def test_what_is_cancelled_is_waited_for_because_it_is_paid_for(ledger: Ledger) -> None:
    client = Scripted(turns=50)

    async def work(run: Run) -> None:
        async with Asker(client, run, concurrency=3) as asker:
            tasks = [asyncio.create_task(asker.ask(i, "test", question(i))) for i in range(10)]
            while client.at_once < 3:
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            assert all(
                isinstance(one, asyncio.CancelledError)
                for one in await asyncio.gather(*tasks, return_exceptions=True)
            )

    with a_run(ledger) as run:
        asyncio.run(work(run))
    (status,) = ledger.runs_of("lineage")
    assert (status.n_answered, status.n_calls, status.n_under_way) == (3, 3, 0)


def test_what_does_not_come_in_time_at_the_end_is_uncertain(ledger: Ledger) -> None:
    client = Scripted(turns=10**9)

    async def work(run: Run) -> None:
        async with Asker(client, run, grace_seconds=0.05) as asker:
            task = asyncio.create_task(asker.ask(1, "test", question(1)))
            while not client.at_once:
                await asyncio.sleep(0)
            task.cancel()

    with a_run(ledger) as run:
        asyncio.run(work(run))
    (status,) = ledger.runs_of("lineage")
    assert (status.n_uncertain, status.n_under_way) == (1, 0)
    with a_run(ledger) as run:
        assert asked(Scripted(), run, 1) == [replied("question 1")]
    assert ledger.runs_of("lineage")[0].n_asked_again == 1


def test_an_answer_that_came_is_written_even_if_nobody_waits_any_more(ledger: Ledger) -> None:
    gate = threading.Event()

    async def work(run: Run) -> None:
        def behave(_: int, request: Request) -> Reply:
            ledger.submit(lambda _: gate.wait(10))  # the writer is busy when the answer comes
            return replied(request.user)

        asker = Asker(Scripted(behave), run, grace_seconds=0.05)
        task = asyncio.create_task(asker.ask(1, "test", question(1)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asker.close()
        gate.set()

    with a_run(ledger) as run:
        asyncio.run(work(run))
    assert ledger.reply(question(1).key(NAME)) == replied("question 1")


def test_it_asks_from_a_thread_while_an_event_loop_runs_elsewhere(ledger: Ledger) -> None:
    async def server() -> list[Reply]:
        with a_run(ledger) as run:
            return await asyncio.to_thread(asked, Scripted(), run, 1, 2)

    assert asyncio.run(server()) == [replied("question 1"), replied("question 2")]


def test_what_one_question_raises_does_not_lose_the_answers_of_the_others(ledger: Ledger) -> None:
    client = Scripted(lambda n, r: failure("authentication") if n == 2 else replied(r.user), turns=3)
    with a_run(ledger) as run, pytest.raises(TooManyFailures):
        asked(client, run, *range(20), concurrency=4)
    (status,) = ledger.runs_of("lineage")
    assert status.n_answered == len(client.asked) - 1
    assert status.n_under_way == 0


def test_a_ledger_that_cannot_be_written_ends_the_run_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "store.runs.sqlite").write_bytes(b"somebody's diary, and no database at all " * 200)
    ledger = Ledger(tmp_path / "store.runs.sqlite")
    with pytest.raises(SaeInterpError, match="expected a ledger of runs"):
        ledger.begin("test", {}, "lineage", "fingerprint")
    ledger.close()


def test_a_client_without_batches_says_which_have_some(ledger: Ledger) -> None:
    with a_run(ledger) as run, pytest.raises(BadInput, match="knows no message batches; ask one by one"):
        asyncio.run(Asker(Scripted(), run).ask_batch([(1, "test", question(1))]))
