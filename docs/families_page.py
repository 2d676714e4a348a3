"""The page of families, written from the registry: `PYTHONPATH=.:tests python docs/families_page.py`."""

from __future__ import annotations

from pathlib import Path

from methods.families import FAMILIES, GROUPS, REFUSED

PAGE = Path(__file__).parent / "families.md"
SITES = ("self", "image", "text", "joint")


def code(names) -> str:
    """Names in code type, or a dash."""
    return ", ".join(f"`{n}`" for n in names) or "-"


def row(family, pipelines_run: set[str]) -> str:
    """One family. pipelines_run: classes of pipelines that the tests run as a whole."""
    models = [tiny.make(1, (2, 1, 2), 1)[0] for tiny in family.tiny.values()]
    sites = {s for m in models for s in family.sites(m)}
    groups = {g for m in models for g in family.groups(m)} | {"reference"}
    ran = [p for p in family.pipelines if p in pipelines_run]
    tested = f"{len(models)} tiny model{'s' if len(models) > 1 else ''}" + (f"; whole: {code(ran)}" if ran else "")
    cells = [
        f"**{family.title}**<br>`{family.class_name}`", "<br>".join(f"`{p}`" for p in family.pipelines),
        code(s for s in SITES if s in sites), code(g for g in GROUPS if g in groups), family.reference, tested,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def markdown(pipelines_run: set[str]) -> str:
    """The whole page."""
    families = sorted(FAMILIES.values(), key=lambda f: f.title.lower())
    lines = [
        "# Families of models", "",
        "Transformers of diffusers that can be steered and recorded, written from the registry in `methods/families`. The "
        "exactness tests run over all of them, on the tiny random models that each family brings, in float32 and bfloat16: "
        "every edit and every statistic against an explicit softmax in float64, neutral settings bit for bit, nothing left "
        "behind. No published weights were run. [Adding a family](new-families.md) takes one file.", "",
        "| family | pipelines | attention | groups of keys | how the reference enters | tested |", "|---|---|---|---|---|---|",
        *[row(f, pipelines_run) for f in families], "",
        "Attention: `joint`, or `self` over the video and cross-attention to `image` and `text`. What a file says that is "
        "left alone, such as the sound of LTX-2, is neither steered nor recorded.", "",
        "## Pipelines without a reference", "",
        "These run a model that could be given a reference, and give it none; a method that needs one says so.", "",
        *[f"- `{p}`: {given}" for f in families for p, given in f.without_reference.items()], "",
        "## Refused", "",
        "Steering one of these raises a `TypeError` with the reason.", "",
        *[f"- `{p}` ({f.title}): {why}" for f in families for p, why in f.refused_pipelines.items()],
        *[f"- `{name}`: {why}" for name, why in REFUSED.items()], "",
    ]  # fmt: skip
    return "\n".join(lines)


def pipelines_run() -> set[str]:
    """Classes of the pipelines that the tests run as a whole."""
    from tiny_pipelines import PIPELINES, build

    return {type(build(name)[0]).__name__ for name in PIPELINES}


if __name__ == "__main__":
    PAGE.write_text(markdown(pipelines_run()))
