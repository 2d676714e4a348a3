"""The page of pipeline stages and the picture of the data flow, both read from dvc.yaml and full/dvc.yaml."""

from __future__ import annotations

import re
from html import escape
from itertools import product
from pathlib import Path

from ruamel.yaml import YAML

# The part of the pipeline that a stage belongs to, by the word after `python -m analysis`; in the order of the data flow.
INPUTS, VIDEOS, SCORES, STUDIES, BOOKS, PAPERS = (
    "Benchmark and settings", "Videos", "Scores", "Attention and other studies", "Notebooks", "Papers and pages",
)  # fmt: skip
PHASES = {
    "benchmark": INPUTS, "settings": INPUTS, "keys": INPUTS, "generate": VIDEOS, "score": SCORES, "reconstruct": SCORES, "curve": SCORES,
    "controls": SCORES, "full": SCORES, "notebook": BOOKS, "claims": PAPERS, "describe-full": PAPERS,
}  # fmt: skip
ORDER = [INPUTS, VIDEOS, SCORES, STUDIES, BOOKS, PAPERS]


def stages(file: Path) -> list[dict]:
    """Name, desc, commands, dependencies and outputs of each stage, as written: templates are not filled in."""
    found, written = [], YAML(typ="safe", pure=True).load(file.read_text())
    lists = {f"${{{k}}}": v for part in written.get("vars", []) for k, v in part.items()}
    for name, stage in written["stages"].items():
        each = stage.get("foreach") or stage.get("matrix")
        if isinstance(each, dict):
            each = {k: lists.get(v, v) if isinstance(v, str) else v for k, v in each.items()}
        body = stage.get("do", stage)
        commands = body["cmd"] if isinstance(body["cmd"], list) else [body["cmd"]]
        outs = [next(iter(o)) if isinstance(o, dict) else o for o in body.get("outs", [])]
        found.append(
            dict(
                name=name, each=each, desc=body.get("desc", ""), commands=commands, deps=body.get("deps", []), outs=outs
            )
        )
    return found


def times(each) -> str:
    """How often a stage with foreach or matrix runs, in words."""
    if not each:
        return ""
    if isinstance(each, dict):  # of a matrix: lists, or names of lists
        parts = {k: v if isinstance(v, list) else [v] for k, v in each.items()}
        words = [f"{k} " + ", ".join(f"`{x}`" for x in values) for k, values in parts.items()]
        return ", for each " + " and ".join(words)
    return ", for each of " + ", ".join(f"`{value}`" for value in ([each] if isinstance(each, str) else each))


def phase(stage: dict) -> str:
    """The part of the pipeline that a stage belongs to."""
    words = str(stage["commands"][0]).split()
    return PHASES.get(words[3] if len(words) > 3 else "", STUDIES)


def section(file: Path, title: str, command: str) -> list[str]:
    """One pipeline: its stages, by part."""
    every = stages(file)
    lines = [f"## {title}", "", f"`{command}`; {len(every)} stages as written.", ""]
    for heading in [x for x in ORDER if any(phase(s) == x for s in every)]:
        lines += [f"### {heading}", "", "| stage | what it does | reads | writes |", "|---|---|---|---|"]
        for s in (s for s in every if phase(s) == heading):
            code = ["<br>".join(f"`{p}`" for p in s[part]) or "-" for part in ("deps", "outs")]
            lines.append(f"| `{s['name']}`{times(s['each'])} | {s['desc']} | {code[0]} | {code[1]} |")
        lines.append("")
    return lines


def markdown(root: Path) -> str:
    """The whole page."""
    lines = [
        "# Stages of the pipeline", "",
        "Written from `dvc.yaml` and `full/dvc.yaml` when this site was built. `dvc repro NAME` runs one stage and what "
        "it needs.", "", "![The small run: parts of the pipeline, and which reads from which](data-flow.svg)", "",
    ]  # fmt: skip
    lines += section(root / "dvc.yaml", "The small run", "make repro")
    lines += section(root / "full/dvc.yaml", "The full-size run", "make full")
    lines += section(root / "full/loosening/dvc.yaml", "Ways to loosen the reference, at full size", "make loosening")
    return "\n".join(lines) + "\n"


def same(out: str, dep: str) -> bool:
    """Is a dependency the output, inside it, or around it? What a template fills in matches anything."""
    parts = [re.sub(r"\$\{[^}]*\}", "*", str(path)).split("/") for path in (out, dep)]
    return all(
        re.fullmatch(re.escape(a).replace(r"\*", ".*"), b) or re.fullmatch(re.escape(b).replace(r"\*", ".*"), a)
        for a, b in zip(*parts, strict=False)
    )


def picture(root: Path) -> str:
    """SVG of the small run: a box per part of the pipeline with its stages, an arrow where one part reads another's."""
    every = stages(root / "dvc.yaml")
    shown = [x for x in ORDER if any(phase(s) == x for s in every)]
    of = {heading: [s for s in every if phase(s) == heading] for heading in shown}
    arrows = [
        (i, j)
        for (i, a), (j, b) in product(enumerate(shown), repeat=2)
        if i != j and any(same(o, d) for s in of[a] for t in of[b] for o in s["outs"] for d in t["deps"])
    ]
    line, width, gap, top = 15, 176, 34, 30 + 11 * len(arrows)
    names = [[s["name"].removeprefix("notebook-") for s in of[x]] for x in shown]
    height = top + line * (max(map(len, names)) + 3)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {(width + gap) * len(shown)} {height}" '
        'font-family="sans-serif" font-size="11"><defs><marker id="a" markerWidth="7" markerHeight="7" refX="6" refY="3" '
        'orient="auto"><path d="M0,0 L6,3 L0,6 z" fill="#57606a"/></marker></defs>',
        f'<rect width="100%" height="{height}" fill="#ffffff"/>',
    ]
    for i, (heading, inside) in enumerate(zip(shown, names, strict=True)):
        x = i * (width + gap) + gap / 2
        out.append(
            f'<rect x="{x}" y="{top}" width="{width}" height="{line * (len(inside) + 2)}" rx="6" fill="#f6f8fa" '
            f'stroke="#57606a"/><text x="{x + 9}" y="{top + 18}" font-weight="bold">{escape(heading)}</text>'
        )
        for k, name in enumerate(inside):
            out.append(f'<text x="{x + 9}" y="{top + 18 + line * (k + 1)}" fill="#24292f">{escape(name)}</text>')
    for n, (i, j) in enumerate(sorted(arrows, key=lambda a: (a[1] - a[0], a[0]))):
        start, end, y = (
            i * (width + gap) + gap / 2 + width * 0.75,
            j * (width + gap) + gap / 2 + width * 0.25,
            top - 12 - 11 * n,
        )
        out.append(
            f'<path d="M{start},{top} V{y} H{end} V{top - 1}" fill="none" stroke="#57606a" marker-end="url(#a)"/>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"
