"""4. Scores and attention tables -> comparisons, figures and executed notebooks."""
