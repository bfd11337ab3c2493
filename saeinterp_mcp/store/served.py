"""The stores that are served together, by name."""

from collections.abc import Sequence
from pathlib import Path

from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.errors import BadInput, UnknownName, nearest
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import is_url, open_store


class ServedStores:
    """One or more open stores. A question names one of them, or none when there is only one."""

    def __init__(self, stores: Sequence[Store]) -> None:
        self.by_name = {store.name: store for store in stores}
        if len(self.by_name) < len(stores):
            names = [store.name for store in stores]
            twice = next(n for n in names if names.count(n) > 1)
            raise BadInput(f"two stores are named {twice!r}; serve one of them as NAME=PATH")
        if not stores:
            raise BadInput("no store to serve; name one with --store PATH")

    @classmethod
    def open(cls, locations: Sequence[str], labels: Path | None = None) -> "ServedStores":
        """Open stores given as PATH or NAME=PATH, whose labels are in the file `labels` or beside each.

        Raises:
            BadStore: a location holds no whole store.
            BadInput: no location, or a name twice.
        """
        stores = []
        for location in locations:
            name, separator, path = location.partition("=")
            named = bool(separator) and not is_url(location) and not Path(location).exists()
            shown = visible_token(name) if named else None
            stores.append(open_store(path if named else location, shown, labels))
        return cls(stores)

    def pick(self, name: str | None) -> Store:
        """The store of that name, or the only one.

        Raises:
            UnknownName: no such store, or several and none named.
        """
        if name is None:
            if len(self.by_name) > 1:
                raise UnknownName(
                    f"several stores are served; say which with store: {', '.join(self.by_name)}"
                )
            return next(iter(self.by_name.values()))
        name = name if name in self.by_name else visible_token(name)
        if name not in self.by_name:
            raise UnknownName(f"no store {name!r} is served; {nearest(name, self.by_name)}")
        return self.by_name[name]
