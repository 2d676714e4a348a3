"""`study cost`: what a paper's table costs in videos, GPU hours and gigabytes, from its presets alone, before anything is there."""

from __future__ import annotations

from dataclasses import dataclass

from ..study.presets import Preset, TablePreset, load_presets, presets_of_table, split_table
from .new_study import slug
from .plan_study import LOSSLESS, sections

NEEDED = ("steps", "frames", "width", "height")


@dataclass(frozen=True)
class TableCost:
    """Of one backbone of a table. `settings` are its methods, `seeds` None if the paper does not say (then one is counted);
    `steps` of one video; `unknown` names what no source gives."""

    backbone: str
    settings: tuple[str, ...]
    videos: int | None
    seeds: int | None
    steps: int | None
    seconds: float | None
    gigabytes: float | None
    unknown: tuple[str, ...]

    @property
    def hours(self) -> float | None:
        """GPU hours, without loading the model."""
        return (
            None if None in (self.videos, self.steps, self.seconds) else self.videos * self.steps * self.seconds / 3600
        )


def costs_of_table(name: str, seconds: dict[str, float] | None = None) -> list[TableCost]:
    """The costs of the backbones of `alignvid/2` that can be run; `seconds` per step are stated, by the backbone's name in a
    study. Raises ValueError for a table without presets, and for a backbone that it does not have."""
    paper, table = split_table(name)
    own = load_presets()[paper].tables[table]
    by_backbone: dict[str, list[Preset]] = {}
    for preset in presets_of_table(name).values():
        if not preset.unserved:
            by_backbone.setdefault(preset.backbone, []).append(preset)
    if unknown := set(seconds or {}) - {slug(b) for b in by_backbone}:
        raise ValueError(f"{name} has no backbone {sorted(unknown)[0]!r}; it has {', '.join(map(slug, by_backbone))}")
    return [_cost(backbone, rows, own, (seconds or {}).get(slug(backbone))) for backbone, rows in by_backbone.items()]


def _cost(backbone: str, rows: list[Preset], table: TablePreset, seconds: float | None) -> TableCost:
    first, methods = rows[0], tuple(dict.fromkeys(r.method for r in rows if r.steering is not None))
    seeds = first.get("seeds")
    runs = dict.fromkeys((r.method, r.guidance_scale, r.data_set) for r in rows if r.steering is not None)
    counts = [table.samples_of(data_set).value for _, _, data_set in runs]
    videos = None if None in counts else sum(counts) * (seeds or 1)
    unknown = tuple(["samples"] * (videos is None) + [k for k in NEEDED if first.get(k) is None])
    steps = None
    if first.get("steps") and first.get("frames"):
        steps = first.get("steps") * sections(
            first.pipeline, first.get("frames"), {"num_frames": first.get("num_frames")}
        )
    pixels = (
        None if set(unknown) - {"steps", "samples"} else first.get("frames") * first.get("width") * first.get("height")
    )
    return TableCost(slug(backbone), methods, videos, seeds, steps, seconds,
                     None if None in (pixels, videos) else videos * pixels * 3 * LOSSLESS / 1e9, unknown)  # fmt: skip


def cost_page(costs: list[TableCost]) -> str:
    """The costs as a Markdown table."""
    lines = ["| backbone | settings | videos | steps each | s a step | GPU hours | GB |", "|---" * 7 + "|"]
    for c in costs:
        hours, gigabytes = ("-" if x is None else f"{x:,.0f}" for x in (c.hours, c.gigabytes))
        lines.append("| " + " | ".join([
            c.backbone, str(len(c.settings)),
            "-" if c.videos is None else f"{c.videos:,}{'' if c.seeds else ' a seed'}", "-" if c.steps is None else str(c.steps),
            "-" if c.seconds is None else f"{c.seconds:g}", hours, gigabytes]) + " |")  # fmt: skip
    return "\n".join(lines) + "\n"
