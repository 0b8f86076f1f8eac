"""What code costs when it runs: candidates in processes of their own, races, and choosing by them."""

from tilewright.measure.batch import Finals, Measurement, Measurer
from tilewright.measure.builder import Build, Builder, Candidate
from tilewright.measure.data import Data, make_data, random_inputs
from tilewright.measure.look import Look
from tilewright.measure.noise import Noise, NoiseWatch
from tilewright.measure.program import Program, build_program, parameters
from tilewright.measure.runner import Limits, Outcome, Runner, Task
from tilewright.measure.timing import Difference, Plan, Race, race
from tilewright.measure.ways import Comparison, GraphRunner, compare_variants, measured_pick

__all__ = [
    "Build",
    "Builder",
    "Candidate",
    "Comparison",
    "Data",
    "Difference",
    "Finals",
    "GraphRunner",
    "Limits",
    "Look",
    "Measurement",
    "Measurer",
    "Noise",
    "NoiseWatch",
    "Outcome",
    "Plan",
    "Program",
    "Race",
    "Runner",
    "Task",
    "build_program",
    "compare_variants",
    "make_data",
    "measured_pick",
    "parameters",
    "race",
    "random_inputs",
]
