"""Tables of `python -m analysis evaluate`, joined with the manifest of their videos: scores with their own estimators.

An imported file has a row per video and metric: sample, seed, backbone, method, guidance_scale, row, main_category, metric,
estimator, value, status, reason. `estimator` is the scorer and its version, so it belongs to the scores and not to the metric.
A video that is missing or damaged answers no question right; any other metric has no value for it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ..benchmarks import read_benchmark
from ..study.files import write_table

REAL = "real"  # folder of a run's results
SCORES = ["video", "scorer", "version", "metric", "value", "status", "reason"]
SETTING = ["backbone", "method", "guidance_scale", "row"]
IMPORTED = ["sample", "seed", *SETTING, "main_category", "metric", "estimator", "value", "status", "reason"]
QUESTIONS = ("macro", "adherence")
NO_VIDEO = ("missing", "corrupt", "too_short", "varying_size")
LEFT_OUT = "undefined"  # the metric is not defined for this video, as for a motion that was not asked for


def read_evaluated(path: Path) -> pd.DataFrame:
    """A table of `evaluate`. Raises ValueError for a file that is none, and for a value that is there twice."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if lacking := [c for c in SCORES if c not in table]:
        raise ValueError(f"{path} is no table of `evaluate`: it lacks {', '.join(lacking)}")
    twice = table[table.duplicated(["video", "scorer", "version", "metric"])]
    if len(twice):
        raise ValueError(
            f"{path}: {len(twice)} values are there twice, such as {twice['metric'].iloc[0]} of {twice['video'].iloc[0]}"
        )
    values = pd.to_numeric(table["value"].replace("", None), errors="coerce")
    if len(wrong := table[values.isna() & (table["value"] != "")]):
        raise ValueError(
            f"{path}: {wrong['value'].iloc[0]!r} is no number ({wrong['metric'].iloc[0]} of {wrong['video'].iloc[0]})"
        )
    if len(silent := table[values.isna() & (table["status"] == "ok")]):
        raise ValueError(f"{path}: {silent['metric'].iloc[0]} of {silent['video'].iloc[0]} is ok and has no value")
    return table.assign(value=values, estimator=(table["scorer"] + " " + table["version"]).str.strip())


def read_manifest(path: Path, benchmark: Path | None = None) -> pd.DataFrame:
    """The videos of a manifest: video, sample, seed, SETTING and main_category, which a benchmark's folder gives where the
    manifest does not. Raises ValueError that says all that is lacking."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table = table.rename(columns={"main-category": "main_category"})
    if "sample" not in table and "id" in table:
        table = table.rename(columns={"id": "sample"})
    if lacking := [c for c in ("video", "sample", "method") if c not in table]:
        wanted = "video, sample (or id) and method; seed, backbone, guidance_scale, row and main_category if there are several"
        raise ValueError(f"{path} lacks {', '.join(lacking)}; a manifest of scores has the columns {wanted}")
    given = {"seed": "0", "backbone": "", "guidance_scale": "", "row": "", "main_category": ""}
    table = table.assign(**{k: v for k, v in given.items() if k not in table})
    if benchmark is not None:
        kinds = {s.id: s.main_category for s in read_benchmark(benchmark, images=False).samples}
        if unknown := sorted(set(table["sample"]) - set(kinds)):
            raise ValueError(f"{len(unknown)} samples of {path} are not in {benchmark}, such as {unknown[0]}")
        table["main_category"] = table["sample"].map(kinds)
    for column in ("video", "sample", "method"):
        if (table[column] == "").any():
            raise ValueError(f"{path}: {int((table[column] == '').sum())} rows have no {column}")
    if len(twice := table[table.duplicated("video")]):
        raise ValueError(f"{path}: {twice['video'].iloc[0]} is there twice")
    if len(twice := table[table.duplicated(["sample", "seed", *SETTING])]):
        raise ValueError(f"{path}: two videos of one sample, seed and setting, such as {twice['video'].iloc[0]}")
    try:
        table["seed"] = table["seed"].replace("", "0").astype(int)
        table["guidance_scale"] = pd.to_numeric(table["guidance_scale"].replace("", None))
    except ValueError as error:
        raise ValueError(f"{path}: seed and guidance_scale are numbers: {error}") from None
    return table[["video", "sample", "seed", *SETTING, "main_category"]]


def join(scores: list[Path], manifest: Path, benchmark: Path | None = None, scorers: list[str] = ()) -> pd.DataFrame:
    """The tables of `evaluate`, or the values of some of their scorers, with what the manifest says of their videos, columns
    IMPORTED. Raises ValueError for videos that are only in one of the two, and for a metric of two estimators, which would be
    mixed up."""
    found = pd.concat([read_evaluated(p) for p in scores], ignore_index=True)
    if unknown := [s for s in scorers if s not in set(found["scorer"])]:
        raise ValueError(f"no values by {unknown[0]!r}; there are {', '.join(sorted(found['scorer'].unique()))}")
    if scorers:
        found = found[found["scorer"].isin(scorers)]
    videos = read_manifest(manifest, benchmark)
    if unknown := sorted(set(found["video"]) - set(videos["video"])):
        raise ValueError(f"{len(unknown)} scored videos are not in {manifest}, such as {unknown[0]}")
    if lacking := sorted(set(videos["video"]) - set(found["video"])):
        raise ValueError(f"{len(lacking)} videos of {manifest} were not scored, such as {lacking[0]}")
    for metric, names in found.groupby("metric")["estimator"].unique().items():
        if len(names) > 1:
            raise ValueError(f"{metric} is there by {' and '.join(names)}: import them as two, with --scorer")
    whole = found.merge(videos, on="video", validate="many_to_one")
    whole.loc[whole["metric"].isin(QUESTIONS) & whole["status"].isin(NO_VIDEO), "value"] = 0.0
    return whole[IMPORTED]


def import_scores(
    name: str,
    scores: list[Path],
    manifest: Path,
    results: Path,
    *,
    benchmark: Path | None = None,
    scorers: list[str] = (),
) -> Path:
    """`join` into `results/real/NAME.csv`, from which the papers' tables take rows; the file."""
    if not name or not all(c.isalnum() or c in "-_." for c in name):
        raise ValueError(f"{name!r} is no name of a file: letters, digits, -, _ and . are allowed")
    path = results / REAL / f"{name}.csv"
    write_table(join(scores, manifest, benchmark, scorers), path)
    return path


def load_imported(results: Path) -> dict[str, pd.DataFrame]:
    """Everything that was imported into a run's results, by name. Raises ValueError for a file of another kind."""
    found = {}
    for path in sorted((results / REAL).glob("*.csv")):
        found[path.stem] = table = pd.read_csv(
            path, keep_default_na=False, na_values={"value": [""], "guidance_scale": [""]}
        )
        if list(table.columns) != IMPORTED:
            raise ValueError(f"{path} was not written by `python -m analysis import-rows`")
        found[path.stem] = table.astype({"sample": str})
    return found


def scorer_of(estimator: str) -> tuple[str, str]:
    """(scorer, version) of an estimator; the version is "" where the scores state none."""
    scorer, _, version = estimator.rpartition(" ")
    return (scorer, version) if scorer else (version, "")


def as_scores(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric of imported scores as a table of scores has it: a column of that name, a row per video. Videos for which it is
    not defined are left out; those that could not be scored are not."""
    own = table[(table["metric"] == metric) & (table["status"] != LEFT_OUT)]
    return own.rename(columns={"value": metric}).assign(categories="").drop(columns="metric")


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """All metrics of imported scores, a column each, and a row per video; nan where a video has no value."""
    keys = ["sample", "seed", *SETTING, "main_category"]
    plain = table[~table["metric"].str.contains("/", regex=False)].assign(
        guidance_scale=lambda t: t["guidance_scale"].fillna(-1)
    )
    found = plain.pivot(index=keys, columns="metric", values="value").reset_index().rename_axis(columns=None)
    return found.assign(guidance_scale=found["guidance_scale"].replace(-1, float("nan")))
