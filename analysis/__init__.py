"""Running a study: generate videos, score them, compare, draw."""
