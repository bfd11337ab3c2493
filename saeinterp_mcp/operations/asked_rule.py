"""A rule, and the rows of a split that it is tested on."""

from typing import Literal

import numpy as np

from saeinterp_mcp.analysis.rule_scores import PredictedRows, Prediction
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.operations.known_names import checked_rule
from saeinterp_mcp.operations.slicing import Scoping, Slice, StoreRows
from saeinterp_mcp.rules import evaluate
from saeinterp_mcp.store.base import Floats, Ints, Store

TestedSplit = Literal["heldout", "explain"]


class AskedRule:
    """A rule and the rows it is tested on."""

    def __init__(
        self, store: Store, feature: int, rule: str, where: str | None, split: TestedSplit, scoping: Scoping
    ) -> None:
        self.store, self.feature, self.split, self.scoping = store, feature, split, scoping
        self.rows = StoreRows(store, "explain" if split == "explain" else "all", scoping, feature)
        self.rule = checked_rule(rule, store)
        if self.rule.needs().uses_feature:
            raise BadInput(
                f"rule {rule!r} reads the feature's own activation, so it would be tested against itself; say where "
                "the feature fires in tokens, families and groups, and put activation or region into where"
            )
        self.where = checked_rule(where, store) if where is not None and where.strip() else None
        if split == "heldout" and self.where and self.where.needs().uses_feature:
            raise BadInput(
                f"where {where!r} chooses held-out rows by the feature's own activation, which the rule is to "
                "predict; ask with split explain, or choose by tokens, families and groups"
            )
        self.n_explain = store.n_rows("explain")
        self.holds = evaluate(self.rule, self.rows)
        self.inside = evaluate(self.where, self.rows) if self.where else np.ones(self.rows.n_rows, bool)
        self.dense = self.rows.activation()

    def need_a_record(self) -> None:
        """Refuse a held-out test that cannot be recorded."""
        if self.split == "heldout" and self.store.labels is None:
            raise BadInput(
                f"store {self.store.name!r} has no place to record held-out tests; name a file with --labels FILE, or "
                "ask with split explain"
            )

    @property
    def tested(self) -> Ints:
        """Rows of the tested split where `where` holds."""
        first = 0 if self.split == "explain" else self.n_explain
        return first + np.flatnonzero(self.inside[first:])

    @property
    def activation(self) -> Floats:
        """Of the tested rows."""
        return self.dense[self.tested].astype(np.float64)

    def prediction(self) -> Prediction:
        """The rule on the tested rows."""
        rows = self.tested
        return Prediction(PredictedRows.of(self.store.row_unit[rows], self.dense[rows] > 0), self.holds[rows])

    def explain_part(self) -> Slice:
        """The rows of the explain split where `where` holds."""
        mask = self.inside[: self.n_explain] if self.where else None
        return Slice(self.store, self.feature, "explain", self.scoping, mask)

    def warnings(self) -> list[str]:
        """What a reader of the result must know."""
        found = self.scoping.warnings() if self.reads_tokens else []
        if not self.inside.any():
            found.append("no stored row satisfies the condition: this is missing data, not a zero")
        elif not self.holds[self.tested].any():
            found.append("the rule holds on no row that was tested: this says nothing about where it would")
        if self.where and self.where.needs().uses_feature:
            found.append(
                "where reads the feature's own activation: the rows are chosen by what the rule predicts"
            )
        return found

    @property
    def reads_tokens(self) -> bool:
        """Whether the scope matters."""
        return self.rule.needs().uses_tokens or bool(self.where and self.where.needs().uses_tokens)
