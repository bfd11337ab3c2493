"""What asking costs: a dated table, a user's own file over it, and "unknown" for the rest."""

import re
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, NonNegativeFloat

from saeinterp_mcp.clients.base import Usage
from saeinterp_mcp.config import Settings, shipped_prices
from saeinterp_mcp.frozen import Frozen, FrozenFile

_DATE = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")
_THIS_MACHINE = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]")
_ADDRESS = re.compile(r"@https?://([^/@]+@)?(?P<host>\[[^\]]*\]|[^/:@]+)(:\d+)?(/|$)")
UNKNOWN = "price unknown; give it in a file with --prices FILE (or SAEINTERP_PRICES), in the form of asking/prices.yaml"


class Price(Frozen):
    """Of one model, in dollars per million tokens."""

    input: NonNegativeFloat
    output: NonNegativeFloat
    cached_read: NonNegativeFloat = 1.0
    """Of tokens read from the provider's cache: a factor of `input`."""
    cached_write: NonNegativeFloat = 1.0
    """Of tokens written to it."""
    batch: NonNegativeFloat = 1.0
    """Of what is asked in a batch: a factor of everything."""

    def cost(self, usage: Usage, batch: bool) -> float:
        """Dollars."""
        read = usage.input_tokens + usage.cached_tokens * self.cached_read
        million = (read + usage.written_tokens * self.cached_write) * self.input
        million += usage.output_tokens * self.output
        return million * (self.batch if batch else 1.0) / 1e6


class PriceFile(FrozenFile):
    """A table of prices."""

    as_of: str = Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")
    """Month or day it was looked up."""
    models: dict[str, Price]
    """Name of a client, without a date, to its price."""


class Rate(NamedTuple):
    """What one client costs, as far as we know."""

    price: Price | None
    said: str
    """The same in words."""

    def cost(self, usage: Usage | None, batch: bool = False) -> float | None:
        """Dollars; None where the price or the usage is unknown."""
        if self.price is None:
            return None
        if usage is None:
            return None if self.price.input or self.price.output else 0.0
        return self.price.cost(usage, batch)

    def at_most(self, input_tokens: int, output_tokens: int, batch: bool = False) -> float | None:
        """Dollars for that many tokens where all that is read is written to the cache as well."""
        if self.price is None:
            return None
        dear = self.price.cached_write > 1
        read = Usage(written_tokens=input_tokens) if dear else Usage(input_tokens=input_tokens)
        return self.price.cost(read.model_copy(update={"output_tokens": output_tokens}), batch)


class Prices(NamedTuple):
    """Tables, the first that names a client decides."""

    tables: tuple[PriceFile, ...]

    def of(self, client: str) -> Rate:
        """The rate of a client by its name, `provider:model` or `provider:model@address`."""
        for table in self.tables:
            for name in (client, _DATE.sub("", client)):
                if (price := table.models.get(name)) is not None:
                    return Rate(price, f"{_words(price)}, as of {table.as_of}")
        if client.startswith(("local:", "recorded:")):
            return Rate(_FREE, "nothing is charged: no provider is asked")
        if _on_this_machine(client):
            return Rate(
                _FREE,
                "nothing is charged: a server on this machine (if it passes questions on to one that charges, give its "
                "price with --prices FILE)",
            )
        return Rate(None, UNKNOWN)


_FREE = Price(input=0, output=0)


def load_prices(file: Path | None = None) -> Prices:
    """The shipped table, and over it a user's own: the file named here or in the settings.

    Raises:
        BadInput: the file is missing, or is no table of prices.
    """
    own = file or Settings.from_environment().prices
    tables = (PriceFile.from_yaml(own),) if own else ()
    return Prices((*tables, PriceFile.from_yaml(shipped_prices())))


def _on_this_machine(client: str) -> bool:
    found = _ADDRESS.search(client)
    return found is not None and _THIS_MACHINE.fullmatch(found["host"]) is not None


def _words(price: Price) -> str:
    batch = f", in batches {price.batch:g} of it" if price.batch != 1 else ""
    return f"${price.input:g} in and ${price.output:g} out per million tokens{batch}"
