"""Embedding: are the excerpts where the feature fires nearer to the claim in meaning? Nobody is asked."""

from collections.abc import Sequence

import numpy as np

from saeinterp_mcp.clients.embedding import Embedder
from saeinterp_mcp.excerpts.show import plain
from saeinterp_mcp.scorers.base import Answer, Trial
from saeinterp_mcp.scorers.no_judge import Ranking


class Embedding(Ranking):
    """AUROC of the cosine between claim and excerpt."""

    name = "embedding"
    needs = "embedder"

    def answers(self, claim: str, trials: Sequence[Trial], embedder: Embedder) -> dict[str, Answer]:
        """(cosine + 1) / 2 of each trial, from 0 to 1: only the order means something.

        Raises:
            BadInput: the model of the embedder cannot be loaded.
            Unavailable: it cannot be used here.
        """
        if not trials:
            return {}
        vectors = embedder.embed([claim, *(plain(t.excerpts[0]) for t in trials)]).astype(np.float64)
        cosines = vectors[1:] @ vectors[0]
        return {t.trial_id: float(np.clip((c + 1) / 2, 0, 1)) for t, c in zip(trials, cosines, strict=True)}
