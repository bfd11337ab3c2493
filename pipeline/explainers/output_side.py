"""Output side: what does the feature push the model's output towards, and does that say where it fires?"""

from typing import ClassVar

from pydantic import Field

from pipeline.explainers.asking import AskingExplainer, AtLeastOne, Count
from saeinterp_mcp.clients.base import Request
from saeinterp_mcp.excerpts.show import fenced
from saeinterp_mcp.operations.base import Table
from saeinterp_mcp.operations.decoder_influence import decoder_influence
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import OUTPUTS


class OutputSide(AskingExplainer):
    """Shows the tokens that the feature raises and lowers most, and a few excerpts."""

    name: ClassVar[str] = "output_side"
    n_top: AtLeastOne = 4
    n_spread: Count = 2
    n_outputs: int = Field(default=15, ge=1, le=OUTPUTS)
    """Output tokens shown on each side."""

    def request(self, store: Store, feature: int, seed: int) -> Request:
        """What to ask a language model; NotInStore too for a store without a decoder."""
        influence = decoder_influence(store, feature, limit=self.n_outputs)
        return self._request(
            store,
            feature,
            seed,
            effect_percentile=f"{influence.effect_percentile:.3g} %",
            promoted=_outputs(influence.promoted, 1),
            suppressed=_outputs(influence.suppressed, -1),
        )


def _outputs(table: Table, sign: int) -> str:
    """One token a line, those of that sign; `decoder_influence` has made what is invisible in them visible."""
    lines = []
    for token, effect, _ in table.rows:
        assert isinstance(effect, float), "the effect on an output is a number"
        if effect * sign > 0:
            shown = str(token).replace('"', "'")
            lines.append(f'"{shown}" {effect:+.3g}')
    return fenced(lines) if lines else "none"
