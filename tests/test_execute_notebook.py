"""Executed notebooks: the user's own environment does not change them, wrong parameters are named, Ctrl-C stops them."""

import os
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from commands import finish, start

from analysis.report.execute_notebook import execute
from analysis.report.kernel_environment import kernel_environment
from analysis.report.notebook_page import open_page
from analysis.report.notebook_parameters import check_parameters
from analysis.study.parameters import load_parameters

ROOT = Path(__file__).parent.parent
FIGURE = """
import matplotlib.pyplot as plt
plt.plot([0, 1], label="a line")
plt.legend()
plt.show()
"""


def write_notebook(folder, code, parameters='results = "results"\noutput = ""'):
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (folder / "notebooks").mkdir(exist_ok=True)
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), folder / "notebooks/small.ipynb"
    )


def test_the_users_environment_does_not_reach_a_notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "matplotlibrc", tmp_path)
    write_notebook(tmp_path, FIGURE)
    plain = execute("small", {}).read_bytes()
    assert b"image/png" in plain

    other, startup = tmp_path / "other", tmp_path / "ipython/profile_default/startup"
    kernel = other / "kernels/python3"
    for folder in (startup, kernel):
        folder.mkdir(parents=True)
    (startup / "00.py").write_text("print('from a startup file')")
    (startup.parent / "ipython_kernel_config.py").write_text("c.InlineBackend.figure_formats = ['svg']")
    (other / "startup.py").write_text("print('from PYTHONSTARTUP')")
    (other / "matplotlibrc").write_text("figure.facecolor: red\nfont.size: 20")
    (kernel / "kernel.json").write_text('{"argv": ["false"], "display_name": "Python 3", "language": "python"}')
    users = {
        "MPLBACKEND": "Agg",
        "MATPLOTLIBRC": str(other / "matplotlibrc"),
        "IPYTHONDIR": str(startup.parents[1]),
        "PYTHONSTARTUP": str(other / "startup.py"),
        "JUPYTER_PATH": str(other),
    }
    for name, value in users.items():
        monkeypatch.setenv(name, value)
    assert execute("small", {}).read_bytes() == plain
    assert {name: os.environ[name] for name in users} == users


def test_the_environment_is_restored_after_an_error(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), kernel_environment():
        assert os.environ["MPLBACKEND"] != "Agg" and Path(os.environ["IPYTHONDIR"]).is_dir()
        raise ZeroDivisionError
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strips": 0}, "strips is 0; it must be a whole number from 1 on"),
        ({"strips": "2"}, "strips is '2'; it must be a whole number from 1 on"),
        ({"strips": True}, "strips is True; it must be a whole number"),
        ({"backbones": "wan-i2v"}, r"backbones is 'wan-i2v'; it must be a list such as \['wan-i2v', 'cogvideox-i2v'\]"),
        ({"backbones": []}, r"backbones is \[\]; it must be a list"),
        ({"backbones": ["wan"]}, "backbones names 'wan'; params.yaml has wan-i2v, "),
        ({"sample": -1}, "sample is -1; it must be a whole number from 0 on"),
        ({"shown": "1"}, "shown is '1'; it must be a number"),
        ({"interactive": 1}, "interactive is 1; it must be true or false"),
    ],
)
def test_a_parameter_of_another_kind_is_named(tmp_path, wrong, message):
    own = 'strips = 2\nbackbones = ["wan-i2v", "cogvideox-i2v"]\nsample = 0\nshown = 1.0\ninteractive = False'
    write_notebook(tmp_path, "", own)
    parameters = load_parameters(ROOT / "params.yaml")
    source = tmp_path / "notebooks/small.ipynb"
    check_parameters(source, {"strips": 3, "backbones": ["wan-i2v"], "shown": -1, "other": None}, parameters)
    with pytest.raises(ValueError, match=message):
        check_parameters(source, wrong, parameters)


def test_a_page_checks_what_its_notebook_was_run_with(monkeypatch):
    kernel = SimpleNamespace(user_ns={"backbones": "wan-i2v"})
    monkeypatch.setattr("analysis.report.notebook_page.get_ipython", lambda: kernel)
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match="it must be a list"):
        open_page("07_method_sweeps")
    kernel.user_ns["backbones"] = ["wan-i2v"]
    assert open_page("07_method_sweeps").name == "07_method_sweeps"


@pytest.mark.slow
def test_ctrl_c_stops_a_notebook(tmp_path):
    write_notebook(tmp_path, "import time\nopen('began', 'w').close()\ntime.sleep(300)")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "testbed/benchmark", tmp_path / "testbed/benchmark")
    process = start(tmp_path, "-m", "analysis", "notebook", "small")
    while process.poll() is None and not (tmp_path / "began").exists():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130 and "stopped; what is finished is kept" in err, err
    assert not (tmp_path / "results/small/small.ipynb").exists()
