"""What claims are decided from: the scores and attention summaries of all sweeps, looked up by setting and measure.

A setting is found by what it is, not by the sweep that made it: a claim reads whatever was made, and says what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, reduce
from pathlib import Path

import numpy as np
import pandas as pd

from ..attention.recording_summaries import dominance, frame_distance, frame_matrix, measures, neighbours
from ..report.film_strips import outcomes
from ..report.score_tables import NoTables, gather, study_table, videos_of
from ..study.parameters import Parameters
from ..study.results_layout import SCORES as TABLE
from .claim_schema import FRAMES, JOINT, LAYERS, PARTS, SCORES, Setting

PAIR = ["sample", "seed"]
COLUMNS = ["method", "guidance_scale", "blur", "prompts", "reference"]


SHARES = {"dominance": dominance, "neighbours": neighbours}  # of one video's attention between frames


class NotRun(LookupError):
    """The data that a test needs is not there; the message says which."""


@dataclass(frozen=True)
class Study:
    """The tables under `root`, of the sweeps of `parameters` that are there; models: each model's siblings by name;
    stand_ins: of a model, the method that is looked up where a setting names another."""

    root: Path
    parameters: Parameters
    models: dict[str, dict[str, str]]
    stand_ins: dict[str, dict[str, str]] = field(default_factory=dict)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """The scores of all sweeps, a row per video; without rows if there are none."""
        return self._gather(TABLE)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Statistics of recorded attention, a row per attention of a step and block; without rows if there are none."""
        return self._gather("attention-cells.csv")

    @cached_property
    def frames(self) -> pd.DataFrame:
        """Recorded attention between frames; without rows if there is none."""
        return self._gather("attention-frames.csv")

    def _gather(self, table):
        try:
            return gather(self.parameters, self.root, table)
        except NoTables:  # a broken table is still an error
            return pd.DataFrame(columns=[*COLUMNS, "backbone", "categories"])

    def rows(self, table: pd.DataFrame, model: str, setting: Setting) -> pd.DataFrame:
        """The rows of a setting. Raises NotRun if there are none."""
        if setting.model and setting.model not in self.models[model]:
            raise NotRun(f"{model} has no {setting.model} model")
        own = self.stand_ins.get(model, {}).get(setting.method, setting.method)
        wanted = setting.model_dump(include=set(COLUMNS)) | {"method": own}
        wanted |= {"window": setting.window} if "window" in table else {}
        wanted["backbone"] = self.models[model][setting.model] if setting.model else model
        rows = table[np.logical_and.reduce([table[k] == v for k, v in wanted.items()])]
        if rows.empty:
            raise NotRun(f"not run: {setting}")
        return rows

    def values(self, model: str, setting: Setting, measure: str) -> pd.DataFrame:
        """sample, seed, value of a measure; the first sweep's where several made the same video. Raises NotRun if it was
        not made, or some video has no value: nothing may be dropped, but samples for which a measure is not defined."""
        if measure in SCORES:
            rows = self._of_scores(model, setting, measure)
        elif measure in FRAMES:
            rows = self._of_frames(model, setting, measure)
        elif measure in LAYERS:
            rows = self._of_layers(model, setting, measure)
        else:
            rows = self.rows(self.cells, model, setting)
            rows = measures(rows.drop_duplicates([*PAIR, "site", "statistic", "key"]), PAIR)
            column = measure if measure in rows else JOINT.get(measure)
            if column not in rows:
                raise NotRun(f"not recorded: {measure}, {setting}")
            rows = rows.rename(columns={column: "value"})
        if missing := int(rows["value"].isna().sum()):
            raise NotRun(f"{missing} of {len(rows)} videos have no {measure}: {setting}")
        return rows[[*PAIR, "value"]].reset_index(drop=True)

    def _of_scores(self, model, setting, measure):
        rows = videos_of(self.rows(self.scores, model, setting), measure)
        if rows.empty:
            raise NotRun(f"not run on all categories: {setting}")
        if measure == "still_copy":  # follows from the answers, also of videos that were scored before it was a column
            copies = outcomes(rows, self.parameters.benchmark.seed) == "still copy"
            return rows.assign(value=copies.astype(int))
        if measure not in rows or rows[measure].isna().all():
            raise NotRun(f"scored before there was a column {measure}: {setting}")
        return rows.rename(columns={measure: "value"})

    def _of_frames(self, model, setting, measure):
        if measure == "twin_motion_gap":
            own, twin = (self._of_scores(model, s, "flow_px") for s in (setting, Setting(model="text-to-video")))
            both = own.merge(twin[[*PAIR, "value"]], on=PAIR, suffixes=("", "_twin"))
            return both.assign(value=(both["value"] - both["value_twin"]).abs())
        found = self._matrices(model, setting)
        if measure in SHARES:
            values = {key: SHARES[measure](m) for key, m in found.items()}
        else:
            twin = self._matrices(model, Setting(model="text-to-video", window=setting.window))
            values = {key: frame_distance(m, twin[key]) for key, m in found.items()}
        return pd.DataFrame([(*key, value) for key, value in values.items()], columns=[*PAIR, "value"])

    def _matrices(self, model, setting):
        rows = self.rows(self.frames, model, setting)
        rows = rows.drop_duplicates([*PAIR, "query_frame", "key_frame"])
        return {key: frame_matrix(part) for key, part in rows.groupby(PAIR)}

    def _of_layers(self, model, setting, measure):
        """Mean over a part of the blocks, of unsteered videos: cosine of hidden states and text features."""
        if setting.method != "none":
            raise NotRun(f"not run: {measure}, {setting}")
        table = self.layers("semantic-layers", model, "layers")
        table = table[(table["words"] == "keywords") & (table["space"] == "hidden")]
        first, end, parts = PARTS[setting.blocks]
        chosen = np.concatenate(np.array_split(np.unique(table["block"]), parts)[first:end])
        means = table[table["block"].isin(chosen)].groupby("sample")[measure].mean()
        return means.rename("value").reset_index().assign(seed=0)

    def layers(self, study: str, model: str, table: str) -> pd.DataFrame:
        """A table of a study of the blocks. Raises NotRun if there is none of this model."""
        try:
            return study_table(study, model, table, self.beside("studies").parent)
        except NoTables:
            raise NotRun(f"not run: {study}, {model}") from None

    def beside(self, *parts: str) -> Path:
        """A file or folder of the root; of the folder above, where a full-size run has none of its own."""
        path = self.root.joinpath(*parts)
        return path if path.exists() else self.root.parent.joinpath(*parts)


def common(*tables: pd.DataFrame) -> list[pd.DataFrame]:
    """The tables on the (sample, seed) that all have. Raises ValueError unless these are all that one of them has: a
    sweep may hold more samples than another, but none may be lost."""
    keys = reduce(lambda x, y: x.merge(y, on=PAIR), [t[PAIR] for t in tables])
    if len(keys) != min(map(len, tables)):
        raise ValueError(f"settings of {[len(t) for t in tables]} videos have only {len(keys)} in common")
    return [keys.merge(t, on=PAIR, validate="one_to_one") for t in tables]
