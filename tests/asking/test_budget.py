"""Ceilings are never crossed by more than an estimate is wrong."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeinterp_mcp.asking.budget import Account, Budget, BudgetReached, Spent, estimate, size_of
from saeinterp_mcp.asking.prices import load_prices
from saeinterp_mcp.clients.base import Request
from saeinterp_mcp.errors import BadInput
from tests.asking.provider import NAME, question

RATE = load_prices().of(NAME)
UNKNOWN = load_prices().of("openai:gpt-6")


def test_an_estimate_is_the_bytes_of_a_request_by_three_and_a_half_and_all_it_may_answer() -> None:
    request = Request(system="a" * 1000, user="é" * 500, answer_schema={}, max_tokens=77)
    assert size_of(request) == ((1000 + 1000 + 2 + 100) / 3.5 // 1 + 1, 77)  # 600.57
    two = estimate([request, request], NAME, load_prices())
    assert (two.n_calls, two.input_tokens, two.output_tokens) == (2, 1202, 154)
    assert two.usd == pytest.approx((1202 * 1.25 + 154 * 5) / 1e6), "all of it might be written to the cache"
    assert estimate([request] * 2, NAME, load_prices(), batch=True).usd == pytest.approx(
        (1202 * 1.25 + 770) / 2e6
    )


def test_an_estimate_without_a_price_says_that_it_is_unknown() -> None:
    one = estimate([question(1)], "openai:gpt-6", load_prices())
    assert one.usd is None
    assert one.price.startswith("price unknown; give it in a file with --prices FILE")
    assert estimate([question(1)], "local:lm", load_prices()).usd == 0


def test_a_ceiling_in_dollars_is_refused_where_the_price_is_unknown() -> None:
    for budget in (Budget(max_usd=1), Budget(max_usd_per_feature=1)):
        with pytest.raises(BadInput, match="price unknown; give it in a file with --prices FILE"):
            Account(budget, UNKNOWN)
    Account(Budget(max_calls=1, max_tokens_per_feature=5), UNKNOWN)


@pytest.mark.parametrize("field", sorted(Budget.model_fields))
def test_each_ceiling_stops_what_would_cross_it_and_says_how_far_it_is(field: str) -> None:
    account = Account(Budget.model_validate({field: 10}), RATE, {1: Spent(4, 4, 4.0), 2: Spent(5, 5, 5.0)})
    account.reserve_now(1, Spent(1, 1, 1.0))
    unit = field.removeprefix("max_").removesuffix("_per_feature")
    if field.endswith("per_feature"):
        for _ in range(5):
            account.reserve_now(1, Spent(1, 1, 1.0))
    with pytest.raises(BudgetReached) as reached:
        account.reserve_now(1, Spent(1, 1, 1.0))
    assert (reached.value.per, reached.value.unit, reached.value.ceiling) == (
        "feature" if field.endswith("per_feature") else "run",
        unit,
        10,
    )
    assert getattr(reached.value.spent, unit) == 10
    name = {"calls": "calls", "tokens": "tokens", "usd": "dollars"}[unit]
    assert f"the ceiling of 10 {name} for this" in str(reached.value)
    assert f"raise --{field.replace('_', '-')} and start again" in str(reached.value)
    if field.endswith("per_feature"):
        account.reserve_now(2, Spent(1, 1, 1.0))


def test_who_has_no_room_beside_what_is_under_way_waits_for_what_it_really_takes() -> None:
    async def work() -> list[str]:
        account, order = Account(Budget(max_tokens=100), RATE), list[str]()

        async def one(name: str, takes: int) -> None:
            await account.reserve(0, Spent(1, 60, 0.0))
            order.append(name)
            await asyncio.sleep(0)
            account.settle(0, Spent(1, 60, 0.0), Spent(1, takes, 0.0))

        await asyncio.gather(one("a", 10), one("b", 30), one("c", 5))
        assert account.spent == Spent(3, 45, 0.0)
        with pytest.raises(BudgetReached):
            await account.reserve(0, Spent(1, 60, 0.0))
        return order

    assert asyncio.run(work()) == ["a", "b", "c"]


calls = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 50), st.integers(0, 100)), max_size=60)


@given(calls, st.integers(1, 6), st.integers(0, 400), st.integers(0, 900), st.integers(0, 30))
def test_whatever_is_asked_at_once_no_ceiling_is_crossed_where_estimates_hold(
    wanted: list[tuple[int, int, int]], concurrency: int, per_feature: int, in_all: int, n_calls: int
) -> None:
    """Each takes between nothing and its estimate, and they end in another order than they began."""
    budget = Budget(max_tokens_per_feature=per_feature, max_tokens=in_all, max_calls=n_calls)
    spent: dict[int, int] = {}
    reached: list[BudgetReached] = []

    async def work() -> Account:
        account, slots = Account(budget, RATE), asyncio.Semaphore(concurrency)

        async def one(i: int, feature: int, most: int, percent: int) -> None:
            async with slots:
                try:
                    await account.reserve(feature, Spent(1, most, 0.0))
                except BudgetReached as error:
                    reached.append(error)
                    return
                for _ in range(i * 7 % 5):
                    await asyncio.sleep(0)
                took = most * percent // 100
                spent[feature] = spent.get(feature, 0) + took
                account.settle(feature, Spent(1, most, 0.0), Spent(1, took, 0.0))

        await asyncio.gather(*(one(i, *each) for i, each in enumerate(wanted)))
        return account

    account = asyncio.run(work())
    assert all(tokens <= per_feature for tokens in spent.values())
    assert account.spent.tokens == sum(spent.values()) <= in_all
    assert account.spent.calls == len(wanted) - len(reached) <= n_calls
    for error in reached:
        assert (
            error.ceiling
            == {"feature": per_feature, "run": in_all if error.unit == "tokens" else n_calls}[error.per]
        )


@pytest.mark.parametrize("value", [-1, "many", float("nan")])
def test_a_ceiling_is_a_number_from_zero(value: Any) -> None:
    with pytest.raises(ValueError, match="max_usd"):
        Budget(max_usd=value)
