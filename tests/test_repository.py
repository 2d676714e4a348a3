"""Promises about the repository itself: notebooks, pipeline, checkpoints, imports."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from ruamel.yaml import YAML

from analysis.report.execute_notebook import scrub
from analysis.report.notebook_page import AT_FULL_SIZE
from analysis.study.parameters import load_parameters
from analysis.study.results_layout import lineage_of

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "notebooks").glob("*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w./-])/(home|root|tmp|work|Users|mnt)/\S+")


def tracked(*arguments):
    """Lines of `git ls-files`; skips the test outside a clone, as in an unpacked archive."""
    try:
        done = subprocess.run(["git", "ls-files", *arguments], cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("git is not installed: nothing says which files are tracked")
    if done.returncode:
        pytest.skip(f"not a git clone: nothing says which files are tracked ({done.stderr.splitlines()[0]})")
    return done.stdout.splitlines()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_notebooks_are_small_and_stripped(path):
    book = nbformat.read(path, as_version=4)
    code = [c for c in book.cells if c.cell_type == "code"]
    lines = sum(len([x for x in c.source.splitlines() if x.strip()]) for c in code)
    assert len(code) <= 15 and lines <= 120, f"{len(code)} cells, {lines} lines"
    assert len(book.cells) - len(code) >= len(code) - 3
    assert sum(len(c.source.split()) for c in book.cells if c.cell_type == "markdown") > 200
    assert not any(c.outputs or c.execution_count for c in code)
    assert book.metadata["kernelspec"]["name"] == "python3"
    functions = [n for c in code for n in ast.walk(ast.parse(c.source)) if isinstance(n, ast.FunctionDef)]
    assert len(functions) <= 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_parameters_and_stages_match_the_notebooks(path):
    parameters = load_parameters(ROOT / "params.yaml").notebooks[path.stem]
    assert set(parameters) | {"results", "output"} == set(papermill.inspect_notebook(str(path)))
    assert stages_of("dvc.yaml")[path.stem]["cmd"] == f"python -m analysis notebook {path.stem}"


def stages_of(file):
    return YAML(typ="safe", pure=True).load((ROOT / file).read_text())["stages"]


def test_the_pipeline_is_short_and_says_what_each_stage_is_for():
    assert (
        sum(len((ROOT / f).read_text().splitlines()) for f in ("dvc.yaml", "full/dvc.yaml", "full/loosening/dvc.yaml"))
        <= 360
    )
    for file in ("dvc.yaml", "full/dvc.yaml", "full/loosening/dvc.yaml"):
        assert all(len(s.get("do", s).get("desc", "")) > 20 for s in stages_of(file).values())


def test_every_lineage_is_made():
    lineages = {lineage_of(s.backbone) for s in load_parameters(ROOT / "params.yaml").sweeps.values()}
    for file in ("dvc.yaml", "full/dvc.yaml", "full/loosening/dvc.yaml"):
        pipeline = YAML(typ="safe", pure=True).load((ROOT / file).read_text())
        assert {name for v in pipeline["vars"] for name in v.get("lineages", [])} == lineages


def test_the_full_size_run_executes_the_notebooks_that_small_runs_are_stamped_for():
    assert tuple(stages_of("full/dvc.yaml")["notebook"]["foreach"]) == AT_FULL_SIZE


def test_every_result_is_an_output_of_a_stage():
    made = set()
    for folder in (ROOT, ROOT / "full"):
        stages, lock = (
            YAML(typ="safe", pure=True).load((folder / f).read_text())["stages"] for f in ("dvc.yaml", "dvc.lock")
        )
        assert {name.split("@")[0] for name in lock} == set(stages), (
            "dvc.lock keeps stages that are gone: delete them there"
        )
        made |= {out["path"] for stage in lock.values() for out in stage["outs"]}
    here = [name for name in tracked("results") if not name.startswith("results/bench/")]  # `make bench` writes those
    assert here and not [name for name in here if not made & {name, *map(str, Path(name).parents)}]


def test_nothing_tracked_names_a_machine():
    for name in tracked("*.ipynb") + tracked("*.py") + tracked("*.md") + tracked("*.yaml"):
        if not name.startswith("tests/"):
            assert not MACHINE_PATH.search((ROOT / name).read_text()), name


def test_executed_notebooks_hold_no_errors_and_no_widgets():
    """A widget, such as a library's progress bar, has a new id in every run."""
    for name in tracked("results/*.ipynb"):
        book = nbformat.read(ROOT / name, as_version=4)
        outputs = [o for c in book.cells if c.cell_type == "code" for o in c.outputs]
        assert outputs and not any(o.output_type == "error" for o in outputs), name
        assert not any("widget" in kind for o in outputs for kind in o.get("data", {})), name


def test_methods_stand_alone():
    for path in (ROOT / "methods").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & {"analysis", "testbed"}, path


# analysis/ in the order of the data flow; packages on one line do not know of each other, unless said here.
FLOW = (
    ["benchmarks"],
    ["study"],
    ["videos"],
    ["scoring", "attention", "tuning", "bench"],
    ["scorers"],
    ["report"],
    ["papers"],
    ["studies", "playground", "search"],
)


def imported_packages(path):
    """Names of the sub-packages of analysis/ that a module of it imports."""
    package = ["analysis", *path.relative_to(ROOT / "analysis").parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names += [".".join([*base, *filter(None, [node.module])])]
            names += [f"{names[-1]}.{a.name}" for a in node.names]
        yield from (n.split(".")[1] for n in names if n.startswith("analysis.") and n.count("."))


def test_data_flows_one_way():
    floor = {name: i for i, names in enumerate(FLOW) for name in names}
    folders = {p.name for p in (ROOT / "analysis").iterdir() if (p / "__init__.py").is_file()}
    assert folders == set(floor)
    for path in (ROOT / "analysis").glob("*/*.py"):
        own = path.parent.name
        for other in imported_packages(path):
            assert other == own or floor[other] < floor[own], f"{path.relative_to(ROOT)} imports analysis.{other}"


def test_packages_say_what_goes_in_and_out():
    for path in [*(ROOT / "analysis").glob("*/__init__.py"), *(ROOT / "methods").glob("*/__init__.py")]:
        assert len(ast.get_docstring(ast.parse(path.read_text())) or "") > 60, path


def test_methods_import_without_the_rest(tmp_path):
    (tmp_path / "methods").symlink_to(ROOT / "methods")
    code = (
        "import sys, methods, methods.__main__\n"
        "loaded = {m.split('.')[0] for m in sys.modules}\n"
        "assert not loaded & {'analysis', 'testbed', 'pandas', 'seaborn', 'dvc', 'cv2', 'av'}, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_files_are_readable_in_one_sitting():
    for name in tracked("*.py"):
        assert (ROOT / name).read_text().count("\n") <= 400, name


def test_scrubbing_removes_what_differs_between_runs():
    def book(run):
        cell = nbformat.v4.new_code_cell("x", metadata={"tags": ["injected-parameters"], "papermill": {"t": run}})
        cell.outputs = [
            nbformat.v4.new_output("stream", name="stderr", text=f"{run} it/s"),
            nbformat.v4.new_output("stream", name="stdout", text=f"<object at 0x{run:x}>"),
        ]
        return nbformat.v4.new_notebook(cells=[cell], metadata={"papermill": {"start": run}})

    assert json.dumps(scrub(book(1))) == json.dumps(scrub(book(2)))


PIPELINES = {
    "wan-i2v": "WanImageToVideoPipeline",
    "wan-t2v": "WanPipeline",
    "cogvideox-i2v": "CogVideoXImageToVideoPipeline",
    "cogvideox-t2v": "CogVideoXPipeline",
}


@pytest.mark.parametrize("name", PIPELINES)
def test_shipped_checkpoints_are_small_and_load(name):
    import diffusers

    folder = ROOT / "testbed/checkpoints" / name
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 25e6
    assert not [f for f in folder.rglob("*") if f.suffix in {".bin", ".pt", ".pkl"}]
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    assert type(pipe).__name__ == PIPELINES[name]
    blocks = pipe.transformer.blocks if name.startswith("wan") else pipe.transformer.transformer_blocks
    assert len(blocks) >= 10


@pytest.mark.parametrize(("backbone", "methods"), [("wan-i2v", "focal-"), ("cogvideox-i2v", "focal-joint-")])
def test_focal_guidance_steers_the_weak_blocks_that_were_found(backbone, methods):
    """In both spaces, as the deltas were tuned; by the paper's measure alone, that of hidden states, a setting of its own."""
    table = pd.read_csv(ROOT / "results/05_semantic_weak_layers/semantic_weak_layers.csv")
    weak = table[(table["backbone"] == backbone) & table["weak"]].groupby("space")["block"].apply(list)
    settings = load_parameters().methods
    used = {name: settings[methods + name][0]["weak"] for name in ("fsg", "cache", "full")}
    assert used == dict.fromkeys(used, sorted({*weak["hidden"], *weak["attention"]}))
    if backbone == "wan-i2v":
        assert settings["focal-hidden-weak"][0]["weak"] == settings["focal-pointing"][0]["weak"] == weak["hidden"]


def test_modules_that_are_named_in_prose_exist():
    """In comments, docstrings and pages; the changelog names files that are gone, too, and a recipe files to be written."""
    named = re.compile(r"(?<![\w/.-])(?:methods|analysis|testbed|tests|docs)/[\w/-]+\.py\b")
    gone = []
    for name in tracked("*.py") + tracked("*.md") + tracked("*.yaml") + tracked("notebooks/*.ipynb"):
        if name != "CHANGELOG.md" and not name.startswith("results/"):
            found = named.findall((ROOT / name).read_text())
            gone += [(name, path) for path in found if not (ROOT / path).exists() and "NAME" not in path]
    assert not gone
