"""What a candidate costs, without running it: predictions from features of programs."""

from tilewright.cost.coefficients import Coefficients
from tilewright.cost.draft import Bound, DraftModel, bound, cold_bytes, draft_model
from tilewright.cost.model import CostModel, FeatureModel, Prediction

__all__ = [
    "Bound",
    "Coefficients",
    "CostModel",
    "DraftModel",
    "FeatureModel",
    "Prediction",
    "bound",
    "cold_bytes",
    "draft_model",
]
