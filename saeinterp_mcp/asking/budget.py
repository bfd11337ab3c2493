"""Ceilings of what may be asked, counted in calls, tokens and dollars, for a feature and for a run."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from pydantic import NonNegativeFloat, NonNegativeInt

from saeinterp_mcp.asking.prices import Prices, Rate
from saeinterp_mcp.clients.base import Request, Usage
from saeinterp_mcp.errors import BadInput, SaeInterpError
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.frozen import Frozen

BYTES_PER_TOKEN = 3.5
OVERHEAD_BYTES = 100
"""What a provider puts around a request."""
Unit = Literal["calls", "tokens", "usd"]
Per = Literal["feature", "run"]
UNITS: tuple[Unit, ...] = ("calls", "tokens", "usd")
_NOUN = {"calls": "calls", "tokens": "tokens", "usd": "dollars"}


class Budget(Frozen):
    """Ceilings; None is none. They count what was sent, each time it was sent, answered or not."""

    max_calls_per_feature: NonNegativeInt | None = None
    max_tokens_per_feature: NonNegativeInt | None = None
    """Read and written, those from the provider's cache too."""
    max_usd_per_feature: NonNegativeFloat | None = None
    max_calls: NonNegativeInt | None = None
    """Of the run."""
    max_tokens: NonNegativeInt | None = None
    max_usd: NonNegativeFloat | None = None

    def ceilings(self, per: Per) -> dict[Unit, float]:
        """Those there are."""
        tail = "_per_feature" if per == "feature" else ""
        found = {unit: getattr(self, f"max_{unit}{tail}") for unit in UNITS}
        return {unit: ceiling for unit, ceiling in found.items() if ceiling is not None}


class BudgetReached(SaeInterpError):
    """The next request would cross a ceiling. One of a feature ends the feature, one of the run the run."""

    def __init__(self, per: Per, unit: Unit, ceiling: float, spent: "Spent", more: "Spent") -> None:
        self.per, self.unit, self.ceiling, self.spent = per, unit, ceiling, spent
        of = "this feature" if per == "feature" else "this run"
        name = f"--max-{unit}" + ("-per-feature" if per == "feature" else "")
        super().__init__(
            f"the ceiling of {ceiling:g} {_NOUN[unit]} for {of} is reached: {_amount(spent, unit)} spent, and the next "
            f"request may take {_amount(more, unit)}; raise {name} and start again to go on from here"
        )


class Spent(NamedTuple):
    """What was spent, or may be."""

    calls: int = 0
    tokens: int = 0
    usd: float = 0.0

    def plus(self, other: "Spent") -> "Spent":
        """Both."""
        return Spent(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)

    def less(self, other: "Spent") -> "Spent":
        """What is left of it without the other."""
        return Spent(self.calls - other.calls, self.tokens - other.tokens, self.usd - other.usd)


class Size(NamedTuple):
    """Tokens that a request may take: of the input an estimate, of the output the most."""

    input_tokens: int
    output_tokens: int

    def worth(self, rate: Rate, batch: bool = False) -> Spent:
        """At most; nothing in dollars where the price is unknown, which has no ceiling in dollars then."""
        usd = rate.at_most(self.input_tokens, self.output_tokens, batch)
        return Spent(1, self.input_tokens + self.output_tokens, usd or 0.0)


def size_of(request: Request) -> Size:
    """How much a request may take."""
    texts = (request.system, request.user, canonical_json(request.answer_schema))
    n_bytes = OVERHEAD_BYTES + sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return Size(int(-(-n_bytes // BYTES_PER_TOKEN)), request.max_tokens)


def used(usage: Usage, usd: float | None) -> Spent:
    """What one call took."""
    tokens = usage.input_tokens + usage.output_tokens + usage.cached_tokens + usage.written_tokens
    return Spent(1, tokens, usd or 0.0)


class Account:
    """What a run has spent, what is under way, and whether there is room for more. Belongs to one event loop."""

    def __init__(self, budget: Budget, rate: Rate, spent: Mapping[int, Spent] | None = None) -> None:
        """`spent`: by feature, before.

        Raises:
            BadInput: a ceiling in dollars, and the price is unknown.
        """
        if rate.price is None and (budget.max_usd is not None or budget.max_usd_per_feature is not None):
            raise BadInput(
                f"a ceiling in dollars cannot be held: {rate.said}. Ceilings in calls and tokens can"
            )
        self.budget = budget
        self._by_feature = dict(spent or {})
        self._run = total(self._by_feature.values())
        self._held, self._held_in_all = dict[int, Spent](), Spent()
        self._waiting = list[asyncio.Future[None]]()

    @property
    def spent(self) -> Spent:
        """Of the run, without what is under way."""
        return self._run

    def spent_on(self, feature: int) -> Spent:
        """Of a feature, without what is under way."""
        return self._by_feature.get(feature, Spent())

    async def reserve(self, feature: int, more: Spent) -> None:
        """Set an estimate aside, once there is room for it: what is under way mostly takes less than was set aside.

        Raises:
            BudgetReached: there is none, even if what is under way should take nothing.
        """
        while self._reached(feature, more, under_way=True) is not None:
            if (sure := self._reached(feature, more, under_way=False)) is not None:
                raise sure
            room = asyncio.get_running_loop().create_future()
            self._waiting.append(room)
            await room
        self._hold(feature, more)

    def reserve_now(self, feature: int, more: Spent) -> None:
        """Set an estimate aside.

        Raises:
            BudgetReached: there is no room beside what is under way.
        """
        if (reached := self._reached(feature, more, under_way=True)) is not None:
            raise reached
        self._hold(feature, more)

    def settle(self, feature: int, reserved: Spent, spent: Spent) -> None:
        """Put what it really took in the place of what was set aside."""
        self._held[feature] = self._held[feature].less(reserved)
        self._held_in_all = self._held_in_all.less(reserved)
        if not self._held[feature].calls:
            del self._held[feature]
        self.correct(feature, Spent(), spent)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)

    def correct(self, feature: int, old: Spent, new: Spent) -> None:
        """Put a number in the place of one that was counted before."""
        self._by_feature[feature] = self.spent_on(feature).less(old).plus(new)
        self._run = self._run.less(old).plus(new)

    def _hold(self, feature: int, more: Spent) -> None:
        self._held[feature] = self._held.get(feature, Spent()).plus(more)
        self._held_in_all = self._held_in_all.plus(more)

    def _reached(self, feature: int, more: Spent, under_way: bool) -> BudgetReached | None:
        on_run, on_feature = self._run, self.spent_on(feature)
        if under_way:
            on_run, on_feature = (
                on_run.plus(self._held_in_all),
                on_feature.plus(self._held.get(feature, Spent())),
            )
        counted: tuple[tuple[Per, Spent], ...] = (("run", on_run), ("feature", on_feature))
        for per, spent in counted:
            for unit, ceiling in self.budget.ceilings(per).items():
                if getattr(spent, unit) + getattr(more, unit) > ceiling * (
                    1 + 1e-9
                ):  # sums of dollars are not exact
                    return BudgetReached(per, unit, ceiling, spent, more)
        return None


class Estimate(Frozen):
    """What asking would take, before anything is asked."""

    n_calls: int
    input_tokens: int
    """From the length of the text, at 3.5 bytes a token."""
    output_tokens: int
    """At most."""
    usd: float | None
    """At most; None where the price is unknown."""
    price: str
    """What the dollars rest on."""


def estimate(requests: Iterable[Request], client: str, prices: Prices, batch: bool = False) -> Estimate:
    """What these requests would take of that client; what was answered before is the caller's to leave out."""
    sizes = [size_of(request) for request in requests]
    rate = prices.of(client)
    n_in, n_out = (sum(size[i] for size in sizes) for i in (0, 1))
    return Estimate(
        n_calls=len(sizes),
        input_tokens=n_in,
        output_tokens=n_out,
        usd=rate.at_most(n_in, n_out, batch),
        price=rate.said,
    )


def total(parts: Iterable[Spent]) -> Spent:
    """All of them."""
    result = Spent()
    for part in parts:
        result = result.plus(part)
    return result


def _amount(spent: Spent, unit: Unit) -> str:
    return f"${spent.usd:.4f}" if unit == "usd" else f"{getattr(spent, unit):,}"
