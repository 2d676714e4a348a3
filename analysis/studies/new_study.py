"""`study new`: a folder with the parameters of a paper's table, each value with its source beside it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from ..study.benchmark_samples import load_samples
from ..study.presets import Preset, Value, load_presets, presets_of_table, split_table
from .settings import comment, put
from .study import FOLDER, PARAMETERS, ROWS, Study, find_study

LEFT_OUT = "its backbone was left out of this study"
OTHER_DATA = "it is of the data set {0}: `study new --data-set '{0}'` makes a study of that one"
HEAD = """\
Study {name}: {table}, made by `python -m analysis study new`. The schema is that of the repository's params.yaml.
A comment says where a value stands. What is null has to be stated: `python -m analysis study set {name} BACKBONE --KEY VALUE`.
"""


def slug(name: str) -> str:
    """A backbone's name as params.yaml has it: `wan2.2-14b` of `Wan 2.2-14B`."""
    return re.sub(r"[^a-z0-9.-]+", "", name.lower())


def new_study(
    folder: Path,
    table: str,
    benchmark: Path,
    *,
    backbones: list[str] | None = None,
    samples: int | None = None,
    data_set: str | None = None,
) -> Study:
    """Make the folder of a study. `backbones` are names of the paper (all by default), `samples` how many of the benchmark's,
    `data_set` which of the table's the benchmark is, where it has several (the first by default).

    Raises ValueError for a table without presets, a backbone or data set that the table has not, a benchmark that cannot be
    read, and a folder that is there already. Leaves nothing behind then.
    """
    paper, name = split_table(table)
    rows, data_set = presets_of_table(table), _data_set(table, data_set)
    served = list(dict.fromkeys(p.backbone for p in rows.values() if not p.unserved))
    if unknown := [b for b in backbones or [] if b not in served]:
        raise ValueError(f"{table} has no backbone {unknown[0]!r} that can be run; it has {', '.join(served)}")
    chosen = [b for b in served if not backbones or b in backbones]
    if folder.exists():
        raise ValueError(f"{folder} is there already; remove it or give the study another name")
    count = len(load_samples(benchmark))
    if samples is not None and not 1 <= samples <= count:
        raise ValueError(f"{samples} samples: the benchmark {benchmark} has {count}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.new.{os.getpid()}")
    try:
        for part in ("runs", "results"):
            (made / part).mkdir(parents=True)
        (made / "benchmark").symlink_to(benchmark.resolve(), target_is_directory=True)
        made_of = {k: p for k, p in rows.items() if p.data_set == data_set}
        document = _parameters(made_of, chosen, samples or count, made)
        document.yaml_set_start_comment(HEAD.format(name=folder.name, table=f"{paper}, {name}"))
        write_yaml(document, made / PARAMETERS)
        write_yaml(_rows(table, rows, chosen, data_set), made / ROWS)
        made.rename(folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return find_study(folder.name if folder.parent == FOLDER else str(folder))


def _data_set(table: str, wanted: str | None) -> str | None:
    """The data set of a study of a table. Raises ValueError for one that the table does not have."""
    paper, name = split_table(table)
    known = list(load_presets()[paper].tables[name].data_sets)
    if wanted not in (None, *known):
        raise ValueError(
            f"{table} has no data set {wanted!r}; it has {', '.join(known) or 'one alone, without a name'}"
        )
    return wanted or (known[0] if known else None)


def write_yaml(document, path: Path) -> None:
    """Write YAML with its comments; lines are not folded."""
    yaml = YAML()
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    # ruamel writes null as nothing, which is easily overlooked.
    yaml.representer.add_representer(type(None), lambda r, _: r.represent_scalar("tag:yaml.org,2002:null", "null"))
    with path.open("w") as file:
        yaml.dump(document, file)


def _parameters(rows: dict[str, Preset], chosen: list[str], samples: int, folder: Path) -> CommentedMap:
    own = {b: next(p for p in rows.values() if p.backbone == b) for b in chosen}
    document = CommentedMap()
    document["benchmark"] = CommentedMap(folder="benchmark", seed=0)
    document["backbones"] = CommentedMap({slug(b): CommentedMap(pipeline=p.pipeline) for b, p in own.items()})
    document["methods"] = methods = CommentedMap(none=CommentedSeq())
    document["sweeps"] = CommentedMap()
    for preset in rows.values():
        if preset.backbone in chosen and preset.steering:
            methods[preset.method] = [dict(s) for s in preset.steering]
            methods.yaml_add_eol_comment(_sources(preset), preset.method)
    for backbone, preset in own.items():
        used = dict.fromkeys(p.method for p in rows.values() if p.backbone == backbone and p.steering is not None)
        document["sweeps"][slug(backbone)] = CommentedMap(
            backbone=slug(backbone), samples=samples, seeds=None, guidance_scale=None, methods=list(used)
        )
        for key, value in preset.settings.items():
            put(document, slug(backbone), key, value.value, folder)
            _comment(document, slug(backbone), key, value)
    document["testbed"], document["notebooks"] = CommentedMap(), CommentedMap()
    return document


def _comment(document: CommentedMap, backbone: str, key: str, value: Value) -> None:
    said = (
        f"{value.origin}; {value.note}" if value.origin and value.note else value.origin or f"not known: {value.note}"
    )
    comment(document, backbone, key, said)


def _sources(preset: Preset) -> str:
    method = load_presets()[preset.paper].methods[preset.method]
    places = {k: ", ".join([*([method.of] if method.of else []), *p]) for k, p in method.published.items()}
    unknown = {k: f"not known, {why}" for k, why in method.unknown.items()}
    return "; ".join(f"{k}: {v}" for k, v in {**method.sources, **places, **unknown}.items())


def _rows(table: str, rows: dict[str, Preset], chosen: list[str], data_set: str | None) -> dict:
    paper, name = split_table(table)
    found = {}
    for label, preset in rows.items():
        if preset.unserved or preset.backbone not in chosen:
            found[label] = {"missing": preset.unserved or LEFT_OUT}
        elif preset.data_set != data_set:
            found[label] = {"missing": OTHER_DATA.format(preset.data_set)}
        elif preset.steering is None:
            found[label] = {"missing": preset.note}
        else:
            found[label] = {"sweep": slug(preset.backbone), "method": preset.method}
            if preset.against:
                found[label]["against"] = preset.against
            if preset.guidance_scale is not None:
                found[label]["guidance_scale"] = preset.guidance_scale
    count = load_presets()[paper].tables[name].samples_of(data_set).value
    return {"table": table, "samples": count, "backbones": {slug(b): b for b in chosen}, "rows": found}
