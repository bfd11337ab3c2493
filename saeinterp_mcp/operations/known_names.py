"""The names that rules about a store may use."""

from saeinterp_mcp.errors import may_be_named
from saeinterp_mcp.rules import Rule, check_rule, parse_rule
from saeinterp_mcp.store.base import Store


def checked_rule(text: str, store: Store) -> Rule:
    """A rule whose names the store knows.

    Raises:
        UnknownName, BadInput: it cannot be read, or names what is not there.
    """
    return check_rule(parse_rule(text), _Names(store))


class _Names:
    """What `check_rule` asks: a store, seen as names."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def families(self) -> dict[str, tuple[int, ...]]:
        """Levels by family."""
        return {name: info.levels for name, info in self._store.families.items()}

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Values by group."""
        return {name: info.values for name, info in self._store.groups.items()}

    @property
    def attributes(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Attribute values by group and attribute."""
        return {
            name: {a: tuple(dict.fromkeys(column)) for a, column in info.attributes.items()}
            for name, info in self._store.groups.items()
        }

    def has_token(self, token: str) -> bool:
        """Whether the vocabulary has it."""
        return token in self._store.token_ids

    def nearest_tokens(self, token: str) -> list[str]:
        """Those that look like it."""
        return nearest_tokens(self._store, token)


def nearest_tokens(store: Store, token: str, n: int = 3) -> list[str]:
    """Tokens that look like one the store does not have: same but for blanks and case, else alike."""
    import difflib

    bare = token.strip().lower()
    same = [t for t in store.tokens if t.strip().lower() == bare and t.strip()]
    if len(same) >= n or len(store.tokens) > 100_000:
        return same[:n]
    close = difflib.get_close_matches(token, store.tokens, n, cutoff=0.6)
    found = dict.fromkeys([*same, *close])
    return [one for one in found if one in same or may_be_named(one, token)][:n]
