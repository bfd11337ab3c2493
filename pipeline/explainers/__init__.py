"""EXPLAINERS: every way of explaining a feature. Written out, so that it can be read and nothing goes missing."""

from pipeline.explainers.base import Explainer
from pipeline.explainers.contrastive import Contrastive
from pipeline.explainers.max_activating import MaxActivating
from pipeline.explainers.output_side import OutputSide
from pipeline.explainers.search import Search

EXPLAINERS: dict[str, type[Explainer]] = {
    explainer.name: explainer for explainer in (MaxActivating, Contrastive, OutputSide, Search)
}
"""Name to class; `EXPLAINERS[name](**options)`, its options being its fields."""
