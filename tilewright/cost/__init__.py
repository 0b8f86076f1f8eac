"""What a candidate costs, without running it: predictions from features of programs."""

from tilewright.cost.model import CostModel, FeatureModel, Prediction

__all__ = ["CostModel", "FeatureModel", "Prediction"]
