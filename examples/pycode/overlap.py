"""Which documents repeat each other, told by the lines they share."""

from collections.abc import Iterable

MIN_LINE_CHARACTERS = 30
"""Shorter lines (`return None`, `import os`) recur in unrelated files and prove nothing."""


def longer_lines(text: str) -> set[str]:
    """The distinct lines of a text that are long enough to be its own, without indentation."""
    lines = (line.strip() for line in text.splitlines())
    return {line for line in lines if len(line) >= MIN_LINE_CHARACTERS}


class LineIndex:
    """Lines seen so far; says what share of a text is among them."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._lines: set[str] = set()
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Remember the longer lines of a text."""
        self._lines |= longer_lines(text)

    def seen_share(self, text: str) -> float:
        """Fraction (0 to 1) of the text's longer lines that are known; 0 for a text that has none."""
        lines = longer_lines(text)
        return len(lines & self._lines) / len(lines) if lines else 0.0


class ContainmentIndex:
    """Finds texts of which another text holds a good part, however long the other is."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._owners: dict[str, list[int]] = {}
        self._n_lines: list[int] = []
        for index, text in enumerate(texts):
            lines = longer_lines(text)
            self._n_lines.append(len(lines))
            for line in lines:
                self._owners.setdefault(line, []).append(index)

    def largest_share(self, text: str, min_lines: int) -> float:
        """Largest fraction of one known text's longer lines in `text`; fewer than `min_lines` are none."""
        counts: dict[int, int] = {}
        for line in longer_lines(text):
            for owner in self._owners.get(line, ()):
                counts[owner] = counts.get(owner, 0) + 1
        shares = (count / self._n_lines[owner] for owner, count in counts.items() if count >= min_lines)
        return max(shares, default=0.0)
