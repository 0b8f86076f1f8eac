"""The tuner: which candidates of a workload to measure next, and what is known of them.

``space`` is what may be chosen from, ``history`` what has been seen of it, a ``strategy`` proposes.
"""

from tilewright.tune.space import Point, Population, SearchSpace

__all__ = ["Point", "Population", "SearchSpace"]
