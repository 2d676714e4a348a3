"""7. A folder per table: a table of a paper, checkpoints and a benchmark -> a study of its own parameters, videos and scores,
and the table's rows from them.

In: papers/presets.yaml, a benchmark's folder, checkpoints. Out: studies/NAME with `params.yaml` (the schema of the root's),
`study.yaml` (which row is which sweep and method), `benchmark` (a link), `runs/` and `results/`. The repository's root is a
study as well: a folder with a `params.yaml`. Everything that makes, scores or compares videos is done by the other packages,
inside the study's folder.
"""
