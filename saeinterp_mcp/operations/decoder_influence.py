"""What does the feature push the model's output towards?"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from saeinterp_mcp.analysis.distributions import normal_below
from saeinterp_mcp.analysis.text import visible_token
from saeinterp_mcp.errors import NotInStore
from saeinterp_mcp.operations.base import Feature, FeatureResult, Table, digits, number, sealed, table_rows
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.layout import OUTPUTS
from saeinterp_mcp.store.manifest import Split


class DecoderInfluence(FeatureResult):
    """Effects on the logits for one unit of activation, but for the final norm's scale; mean over outputs removed,
    unless each output has a sigmoid of its own."""

    promoted: Table
    suppressed: Table
    families: Table
    """Mean effect on the output tokens of each family."""
    effect_norm: float
    effect_percentile: float
    """Share of the store's features with a smaller effect_norm, in percent."""


def decoder_influence(
    store: Store,
    feature: Feature,
    limit: Annotated[int, Field(ge=1, le=OUTPUTS, description="Tokens shown on each side")] = 10,
    by: Annotated[
        Literal["token", "family"], Field(description="family: only the table of families")
    ] = "token",
    split: Annotated[Split | None, Field(description="Unused")] = None,
    where: Annotated[str | None, Field(description="Unused")] = None,
    seed: Annotated[int | None, Field(description="Unused")] = None,
) -> DecoderInfluence:
    """Output tokens that the feature's decoder direction raises and lowers most (direct path, from weights).

    percentile places each effect among random directions of the same length.
    """
    store.check_feature(feature)
    if not store.backend.has("outputs/norm"):
        raise NotInStore(
            f"store {store.name!r} holds no decoder with unembedding, so decoder_influence cannot answer; "
            "give decoder, unembedding and output_tokens in the bundle, or build from the model"
        )
    direction = store.per_feature("weights/decoder", feature).astype(np.float64)
    norms = store.backend.column("outputs/norm")
    sides = {
        side: _side(store, feature, side, direction, limit if by == "token" else 0)
        for side in ("promoted", "suppressed")
    }
    families = _families(store, direction)
    percentile = 100 * float((norms < norms[feature]).mean())
    # The read-out of a set model is linear in the vector that the SAE reads: there are no later layers.
    exact = (store.manifest.model or {}).get("read_out") == "sigmoid"
    result = DecoderInfluence(
        operation="decoder_influence",
        store=store.name,
        basis="weights",
        summary=(
            f"Feature {feature} has a larger effect on the outputs than {digits(percentile, 4)} % of features "
            f"(L2 norm {digits(float(norms[feature]))}); what it raises and lowers most is in promoted and suppressed."
        ),
        warnings=[] if exact else ["direct path only: what later layers make of the feature is not in it"],
        feature=feature,
        effect_norm=float(norms[feature]),
        effect_percentile=percentile,
        families=families,
        **sides,
    )
    return sealed(result, store, {"feature": feature, "limit": limit, "by": by})


def _side(store: Store, feature: int, side: str, direction: Any, limit: int) -> Table:
    tokens = store.list_of_feature(f"outputs/{side}/tokens", feature)[:limit]
    effects = store.list_of_feature(f"outputs/{side}/effects", feature)[:limit].astype(np.float64)
    rows = store.backend.column("weights/unembedding")[tokens].astype(np.float64)
    # a random direction of the same length has effect N(0, |d|^2 |u|^2 / d_model) on an output with row u
    scale = np.linalg.norm(direction) * np.linalg.norm(rows, axis=1) / np.sqrt(len(direction))
    z = np.divide(effects, scale, out=np.zeros(len(effects)), where=scale > 0)
    names = [visible_token(store.output_tokens[t]) for t in tokens]
    return Table(
        columns=["token", "effect", "percentile"], rows=table_rows(names, effects, 100 * normal_below(z))
    )


def _families(store: Store, direction: Any) -> Table:
    """Mean effect over the output tokens of each family, and its place among random directions of the same length."""
    place = {token: i for i, token in enumerate(store.output_tokens)}
    unembedding = store.backend.column("weights/unembedding")
    rows: list[list[Any]] = []
    for family in store.manifest.families:
        members = [place[t] for t in family.tokens if t in place]
        if members:
            mean_row = unembedding[np.array(members)].astype(np.float64).mean(0)
            effect = float(mean_row @ direction)
            scale = np.linalg.norm(direction) * np.linalg.norm(mean_row) / np.sqrt(len(direction))
            rows.append(
                [
                    family.name,
                    len(members),
                    effect,
                    number(100 * float(normal_below(effect / scale))) if scale else None,
                ]
            )
    rows.sort(key=lambda row: -abs(row[2]))
    return Table(columns=["family", "n_tokens", "effect", "percentile"], rows=rows)
