"""0. What is asked about: a folder of prompts, reference images and questions -> samples of one schema, and all that is wrong
with the folder, before anything is loaded. Knows nothing of the rest of `analysis`."""

from .readers import read_benchmark
from .sample import Benchmark, Problem, Question, Sample

__all__ = ["Benchmark", "Problem", "Question", "Sample", "read_benchmark"]
