"""What of an input could not be taken in: the first of it ends the run, or all of it is counted and passed over."""

from collections import Counter
from pathlib import Path

from pipeline.importers.json_lines import BadPart, BadParts
from pipeline.validation.config import BadFiles
from saeinterp_mcp.errors import BadInput


class BadRows(BadParts):
    """Bad lines and rows of the activations of a run, counted by kind."""

    def __init__(self, policy: BadFiles) -> None:
        super().__init__(policy)
        self.dropped: Counter[str] = Counter()
        """Numbers that are fine and not kept."""

    def met(self, path: Path, where: str, bad: BadPart) -> None:
        """Count it.

        Raises:
            BadInput: bad parts end the run.
        """
        if not self.skips:
            raise BadInput(
                f"{path}, {where}: {bad.why}. Repair it, or set activation_examples.bad_files to skip, which counts "
                "such lines and passes over them"
            )
        self.counts[bad.kind] += 1
