"""What happens before anything runs: make, the versions it takes, line ends, an archive without git."""

import os
import shutil
import subprocess
import sys

import pytest
from test_repository import ROOT, tracked

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(folder, *arguments):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "TORCH_INDEX")}
    environment |= {"GIT_CEILING_DIRECTORIES": str(folder.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def old_python(path):
    """A command that says that it is Python 3.10, as far as `-c` shows."""
    code = "import sys; sys.version_info = (3, 10, 12, 'final', 0); exec(sys.argv.pop(1))"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -c "{code}" "$@"\n')
    path.chmod(0o755)
    return path


@needs_make
def test_an_old_python_is_refused_before_anything_is_installed(tmp_path):
    done = make(tmp_path, ".venv/.installed", f"PYTHON={old_python(tmp_path / 'old')}")
    assert done.returncode != 0 and "Python 3.10, and 3.11 or later is needed" in done.stderr
    assert "make PYTHON=python3.12" in done.stderr and "pip" not in done.stdout
    assert not (tmp_path / ".venv").exists()


@needs_make
def test_an_environment_of_an_old_python_is_named(tmp_path):
    old_python(tmp_path / ".venv/bin/python")
    done = make(tmp_path, ".venv/.installed", f"PYTHON={sys.executable}")
    assert done.returncode != 0 and "Remove .venv and name another one" in done.stderr and "pip" not in done.stdout


@needs_make
def test_an_environment_whose_python_is_gone_is_made_anew(tmp_path):
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/pyvenv.cfg").touch()
    (tmp_path / ".venv/bin/python").symlink_to(tmp_path / "removed")
    (tmp_path / "python").write_text(f'#!/bin/sh\n[ "$1" = -m ] && echo "$@" || exec {sys.executable} "$@"\n')
    (tmp_path / "python").chmod(0o755)
    done = make(tmp_path, ".venv/.installed", "PYTHON=./python")  # it goes on to pip, which is not there
    assert done.stdout.splitlines()[0] == "-m venv --clear .venv"


@needs_make
def test_torch_comes_from_another_index_only_where_one_is_named(tmp_path):
    plain = make(tmp_path, "-n", ".venv/.installed")
    assert plain.returncode == 0 and plain.stdout.count("pip install") == 2 and "index" not in plain.stdout
    other = make(tmp_path, "-n", ".venv/.installed", "TORCH_INDEX=https://example.org/cpu").stdout
    lines = [line for line in other.splitlines() if "--index-url https://example.org/cpu" in line]
    assert len(lines) == 1 and lines[0].endswith(" torch==2.13.0")


@needs_make
def test_an_archive_without_git_is_named_before_anything_is_installed(tmp_path):
    for target in ("repro", "full"):
        done = make(tmp_path, target, f"PYTHON={sys.executable}")
        assert done.returncode != 0 and 'run "git init" in it first' in done.stderr
        assert not (tmp_path / ".venv").exists()


@needs_make
def test_processes_may_keep_compiled_modules(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path / "main.mk")
    (tmp_path / "shown.mk").write_text('include main.mk\nshown:\n\t@echo "set: $$PYTHONDONTWRITEBYTECODE"\n')
    assert make(tmp_path, "-f", "shown.mk", "shown").stdout == "set: \n"


def test_tests_that_need_git_are_skipped_in_an_archive(monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr("test_repository.ROOT", tmp_path)
    with pytest.raises(pytest.skip.Exception, match="not a git clone"):
        tracked("*.py")


def test_git_never_converts_line_ends():
    lines = [line.split("\t")[0].split() for line in tracked("--eol", "*.json", "*.txt", "*.csv", "*.md")]
    assert lines and all(attribute == "attr/-text" for _, _, attribute in lines)


def test_a_checkpoint_has_the_same_bytes_under_autocrlf():
    tracked("*.json")
    folder = "testbed/checkpoints/clip"
    archives = [
        subprocess.run(
            ["git", "-c", f"core.autocrlf={setting}", "archive", "HEAD", folder], cwd=ROOT, capture_output=True
        ).stdout
        for setting in ("true", "false")
    ]
    assert archives[0] == archives[1] and len(archives[0]) > 10_000
