"""What somebody's dashboard published about a feature; it was not computed from the store."""

from pydantic import BaseModel, ConfigDict

from saeinterp_mcp.analysis.text import visible, visible_token
from saeinterp_mcp.errors import BadStore
from saeinterp_mcp.fingerprint import rounded
from saeinterp_mcp.store.base import Store

TABLE = "published_features"
SHOWN_OUTPUTS = 3
THEIRS = (
    "published holds somebody else's figures, of their own run over their own text; they were not computed from this "
    "store, and are no evidence"
)


class Published(BaseModel):
    """Somebody else's figures of a feature, as they stood there."""

    model_config = ConfigDict(extra="forbid")
    source: str
    frac_nonzero: float | None
    """Share of the positions of their own run at which it fires."""
    max_act_approx: float | None
    n_prompts_total: int | None
    """Prompts of that run."""
    promoted: list[str]
    suppressed: list[str]


def published_of(store: Store, feature: int) -> tuple[list[Published], list[str]]:
    """What was published about a feature, and the warnings that go with it; both empty where there is nothing."""
    try:
        tables = store.validation
        if tables is None or not tables.has(TABLE):
            return [], []
        rows = tables.of_feature(TABLE, feature).to_dicts()
    except BadStore as error:
        return [], [f"what was published about the feature cannot be read: {error}"]
    found = [
        Published(
            source=visible(row["data_source"]),
            frac_nonzero=rounded(row["frac_nonzero"]),
            max_act_approx=rounded(row["max_act_approx"]),
            n_prompts_total=row["n_prompts_total"],
            promoted=_tokens(row["promoted"]),
            suppressed=_tokens(row["suppressed"]),
        )
        for row in rows
    ]
    return found, [THEIRS] if found else []


def _tokens(pairs: list[dict[str, object]] | None) -> list[str]:
    return [visible_token(str(pair["token"])) for pair in (pairs or ())[:SHOWN_OUTPUTS]]
