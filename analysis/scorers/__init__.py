"""Scorers of videos: in, a manifest of video files; out, one table of `video, scorer, version, metric, value, status, reason`.

`python -m analysis evaluate MANIFEST.csv --scorers NAME... -o SCORES.csv` runs them on videos of any origin; docs/evaluating.md
is for those who run it, this for those who write one.

A scorer is one file of this package (or a class, or a module, behind an entry point of the group `i2v_steering.scorers`):
a frozen dataclass derived from `scorer.Scorer`. It is found by itself. It says, as class attributes,

name: by which the command and the table call it. One that follows a published metric with another estimator has the
    estimator in its name (`dynamic_degree_supported_flow`), and so have its metrics.
version: raised by hand whenever the same video would get another value.
requires: `Requires(packages, weights, licence)`: what has to be there, and under which terms.
metrics: name -> `Metric`: unit, range, what it measures, which published metric it is (`published`) or follows with another
    estimator (`imitates`). Which columns of the papers' tables a metric of this name fills says papers/stand_ins.yaml, under
    `real`: add it there.
inputs: which columns of the manifest it reads, of `image`, `prompt`, `id`, `questions`. It is given those and no others, so
    its key cannot miss one. A video that lacks one is a row with the status `no_input`.
runs: "worker" (several processes at once, the default) or "here" (in the command's own process, after the workers: a model
    that is on the GPU once).
batch: how many videos it takes at once; above 1 it defines `score_many`. A batch needs `runs = "here"`.

Its fields are its parameters, all with defaults and of plain types (str, int, float, bool, None): `NAME:rate=4,side=0` sets
them, they enter the key of what is kept, and those that differ from the default stand in the table's column `scorer`.

available(self): None, or in one sentence why it cannot run here (a package, a weight, a program that is not there). Cheap:
    no import of torch, no network.
fingerprint(self): what else decides its values, such as the SHA-256 of its weights; "" by default. It enters the key.
score(self, video, sample): metric -> value, for one `video.Video` and one `scorer.Sample`.

`score` returns all declared metrics. A value is a number, or a `NotScored(status, reason)` for this metric alone; nan
becomes the status `undefined`. A metric that is declared with `per_item` is returned once for each item, as
`NAME/ITEM`, e.g. an answer for each question. `score` raises `NotScored` where no metric can be had, e.g. `too_short`; any
other exception becomes rows with the status `failed`. Neither ends the run. What is not "failed" or "unavailable" is kept
in the cache under a key of the video's SHA-256, the scorer's name, version, parameters, fingerprint and inputs, the stated
frames per second and the versions of the packages, and is not computed again.

A model is loaded once in each process: an instance lives as long as it. Put it behind a `functools.cached_property`.
A module imports torch and transformers inside functions only: all modules are imported whenever the command starts.

A program in an environment of its own needs no Python here: a YAML file says its command line (`program.py`).
"""
