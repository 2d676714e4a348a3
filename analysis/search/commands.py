"""`python -m analysis search-combinations`, `register-combinations` and `confirm-combinations`, in this order."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..study.parameters import Parameters, load_parameters
from ..videos.command_line import Workers

OUT = Path("results/full/search")
RUNS = Path("runs/full/search")


def search_combinations(
    lineage: str,
    trials: Annotated[
        int | None, typer.Option(help="so many instead of those in params.yaml, all runs together")
    ] = None,
    workers: Workers = None,
):
    """Search combinations of two or three methods on tuning prompts: results/full/search/LINEAGE.journal; a killed one goes on."""
    parameters, backbone = _parameters(lineage)
    from ..videos.generate import default_executor
    from . import trials as search
    from .combinations import suggest
    from .evaluate_combination import evaluate

    own, prompts = parameters.search.lineages[lineage], _prompts(parameters, "tuning")
    study = search.open_study(OUT / f"{lineage}.journal", lineage, _made_for(parameters, lineage, prompts))
    focal = parameters.methods[own.focal][0]
    with default_executor(workers) as executor:
        given = dict(parameters=parameters, backbone=backbone, split=parameters.search.tuning, prompts=prompts)
        tried = search.run_trials(
            study, trials or parameters.search.trials, parameters.search.seed,
            partial(suggest, methods=own.methods, focal=focal),
            partial(evaluate, **given, runs=RUNS / lineage, executor=executor),
        )  # fmt: skip
    print(f"{lineage}: {tried} combinations tried now; {search.cost_of(study)}")


def register_combinations(lineage: str):
    """Write papers/registered/LINEAGE.yaml: the few best of a search, and how they are to be tested. Commit it before `confirm`."""
    parameters, backbone = _parameters(lineage)
    from . import registration
    from .trials import open_study

    made_for = _made_for(parameters, lineage, _prompts(parameters, "tuning"))
    if not (journal := OUT / f"{lineage}.journal").is_file():
        raise ValueError(f"no {journal}: run `python -m analysis search-combinations {lineage}` first")
    path = registration.FOLDER / f"{lineage}.yaml"
    found = registration.register(
        open_study(journal, lineage, made_for), parameters, backbone, _weights(parameters, backbone),
        _prompts(parameters, "held_out").name, path,
    )  # fmt: skip
    names = ", ".join(s["name"] for s in found["settings"])
    print(
        f"{path}: {names}; {found['pairs']} pairs. Commit it, then run `python -m analysis confirm-combinations {lineage}`"
    )


def confirm_combinations(lineage: str, workers: Workers = None):
    """Run the registered settings on held-out prompts: results/full/search/LINEAGE-confirmed.csv and -shrinkage.csv. Refuses a
    registration that is missing, was changed, or is not committed."""
    parameters, _ = _parameters(lineage)
    from .registration import FOLDER, read_registration

    registered = read_registration(FOLDER / f"{lineage}.yaml")
    from ..videos.generate import default_executor
    from .confirm import confirm

    with default_executor(workers) as executor:
        table = confirm(parameters, registered, _prompts(parameters, "held_out"), RUNS / lineage, executor, OUT)
    print(f"the search: {registered['search']}")
    print(table.drop(columns="registered").round(3).to_string(index=False))


def _parameters(lineage: str) -> tuple[Parameters, str]:
    parameters = load_parameters()
    if parameters.search is None or lineage not in parameters.search.lineages:
        known = list(parameters.search.lineages) if parameters.search else []
        raise ValueError(f"params.yaml has no search of {lineage!r}; it has {', '.join(known) or 'none'}")
    focal = parameters.search.lineages[lineage].focal
    if f"{lineage}-i2v" not in parameters.backbones or focal not in parameters.methods:
        raise ValueError(f"search.lineages.{lineage} needs a backbone {lineage}-i2v and a method {focal}")
    return parameters, f"{lineage}-i2v"


def _prompts(parameters: Parameters, split: str) -> Path:
    from .drawn_prompts import write_prompts

    return write_prompts(parameters, split)


def _weights(parameters: Parameters, backbone: str) -> str:
    from ..study.video_key import weights_hash

    return weights_hash(backbone, parameters.backbones[backbone])


def _made_for(parameters: Parameters, lineage: str, prompts: Path) -> str:
    """What a journal is of: the settings of the search but for how many trials it has, the prompts, and the weights."""
    from ..study.files import content_key

    search = parameters.search
    settings = search.model_dump(include={"guidance_scale", "seed", "tuning"}) | {
        "lineage": search.lineages[lineage].model_dump()
    }
    return content_key(settings | {"prompts": prompts.name, "weights": _weights(parameters, f"{lineage}-i2v")})


def add_to(app: typer.Typer) -> None:
    """Make the commands of this module commands of `app`."""
    for command in (search_combinations, register_combinations, confirm_combinations):
        app.command()(command)
