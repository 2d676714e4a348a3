"""What the methods were found to do, in sentences made of the tables of one run."""

from __future__ import annotations

import pandas as pd

from ..study.parameters import Parameters
from ..study.significance import clear_side
from . import labels
from .against_unsteered import MEASURES, change_unit
from .findings import effect, number


def found_on(backbone: str, changes: pd.DataFrame, parameters: Parameters) -> str:
    """Sentences on adherence: what guidance alone does, then which methods raise and lower it, at each guidance scale."""
    table = changes[changes["measure"] == "adherence"]
    sentences, alone = [], table[table["method"] == "none"]
    if len(alone):
        best = alone.loc[alone["difference"].idxmax()]
        scale = labels.setting("none", best["guidance_scale"]).capitalize()
        sentences.append(f"{scale} alone, at the cost of a second pass: {_effect(best)} of adherence.")
    for scale, rows in table[table["method"] != "none"].groupby("guidance_scale"):
        where = "Without guidance" if scale == 1 else f"On top of guidance {scale:g}"
        signs = pd.Series(
            [clear_side(*ends) for ends in rows[["low", "high", "p (Holm)"]].to_numpy()], index=rows.index
        )
        parts = [
            f"adherence {verb} with {_listed(rows[signs == sign], parameters)}"
            for sign, verb in ((1, "rises"), (-1, "falls"))
            if (signs == sign).any()
        ]
        if unclear := int((signs == 0).sum()):
            parts.append(f"{unclear} of {len(rows)} settings show no clear change")
        sentences.append(f"{where}, {'; '.join(parts)}.")
    return f"**{labels.backbone(backbone)}.** " + " ".join(sentences)


def _listed(rows: pd.DataFrame, parameters: Parameters) -> str:
    return " and ".join(f"{labels.setting(r['method'], 1.0, parameters)}, {_effect(r)}" for _, r in rows.iterrows())


def _effect(row) -> str:
    digits, unit = MEASURES[row["measure"]][3], change_unit(row["measure"])
    return effect(row["difference"], row["low"], row["high"], unit, int(row["n"]), digits)


def copies_found(backbone: str, shares: pd.DataFrame, parameters: Parameters) -> str:
    """How many videos answer as a still copy does: unsteered, and in the settings with fewest and most of them."""
    table = shares[shares["main_category"] == "all"].reset_index(drop=True)
    plain = table[(table["method"] == "none") & (table["guidance_scale"] == 1)].iloc[0]
    rest = table.drop(index=plain.name)
    fewest, most = (rest.loc[i] for i in (rest["still copy"].idxmin(), rest["still copy"].idxmax()))
    words = [
        f"{number(r['still copy'], 0)} % with {labels.setting(r['method'], r['guidance_scale'], parameters)}"
        for r in (fewest, most)
    ]
    return (
        f"On the {labels.backbone(backbone)}, {number(plain['still copy'], 0)} % of the unsteered videos look to the "
        f"oracle like a still copy of the reference; among the settings shown it is {words[0]} to {words[1]}."
    )


def settings_table(parameters: Parameters, cells: dict[str, list[tuple[str, float]]]) -> str:
    """Markdown: every setting shown, its name in params.yaml and its values there."""
    names = dict.fromkeys(name for own in cells.values() for name, _ in own if name != "none")
    lines = ["| setting | name in `params.yaml` | values |", "|---|---|---|"]
    for name in names:
        values = [
            ", ".join(
                f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in part.items() if k not in labels.HIDDEN
            )
            for part in parameters.methods[name]
        ]
        lines.append(f"| {labels.setting(name, 1.0, parameters)} | `{name}` | {'; '.join(values)} |")
    return "\n".join(lines) + "\n"
