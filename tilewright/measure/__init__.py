"""What code costs when it runs: timing side by side, and choosing by it."""

from tilewright.measure.timing import Difference, Plan, Race, race
from tilewright.measure.ways import Comparison, GraphRunner, compare_variants, measured_pick

__all__ = [
    "Comparison",
    "Difference",
    "GraphRunner",
    "Plan",
    "Race",
    "compare_variants",
    "measured_pick",
    "race",
]
