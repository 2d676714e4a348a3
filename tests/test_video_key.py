"""Keys of videos: what changes them, what does not, and that every Python gives the same."""

import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from analysis.study.cells import expand
from analysis.study.parameters import load_parameters
from analysis.study.source_hash import import_closure, normalised, source_hash
from analysis.study.video_key import SHARED, core_version, file_hash, folder_hash, method_files, program_hash
from methods.core.version import CORE_VERSION
from methods.registry import find_methods

ROOT = Path(__file__).parent.parent
METHODS = ROOT / "methods"
FIXTURE = '''"""What other Pythons parse, print or tokenize differently."""

from __future__ import annotations


class Thing:
    """A docstring with umlauts: äöü."""

    def said(self, name: str, width=3, *, more=()):
        """One that
        spans lines."""  # and a comment
        # Strings keep what they hold: "# not a comment" and spaces.
        plain = "# not a comment,   three spaces"
        nested = f"{name!r:>{width}} {self.of['key']} {{}} {'ü'}"  # an f-string in which quotes differ
        many = (
            f"first {name}"
            rf"second\\d {width:.2f}"
        )
        async def inner(x: int = 1, /) -> dict[str, int]:
            return {**more, "x": x if (y := x) else -y}
        return [nested, many, plain, inner], f"""a
        {name}  b"""
'''


def written(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_the_hash_of_a_source_is_the_same_in_every_python(tmp_path):
    # Computed with 3.11.7, 3.12.1 and 3.13.0.
    assert source_hash(written(tmp_path, {"a.py": FIXTURE}) / "a.py") == "82527668ea881f2e4c7a"


@pytest.mark.parametrize(
    "text",
    [
        '"""Doc."""\n# why\ndef f(x, y):\n    """More."""\n\n    return x + y  # a sum\n',
        "def f(x,y):\n  return x+y\n",
        "def f(\n    x, y\n):\n    'Doc.'\n    return x + \\\n        y\n\n\n",
    ],
)
def test_comments_docstrings_and_layout_do_not_count(text):
    assert normalised(text) == normalised("def f(x, y):\n    return x + y\n")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1\n", "x = 2\n"),
        ('x = "a b"\n', 'x = "a  b"\n'),
        ('x = f"{a} b"\n', 'x = f"{a}  b"\n'),
        ('x = "# a"\n', 'x = "# b"\n'),
        ("if a:\n    b()\n    c()\n", "if a:\n    b()\nc()\n"),
        ("def f():\n    return 'a'\n", "def f():\n    return 'b'\n"),
        ("notin = 1\n", "not in = 1\n".replace(" in", "_in")),
        ("def f():\n    x = 1\n    'no docstring'\n", "def f():\n    x = 1\n    'another'\n"),
        ("a = b\nc\n", "a = b; c\n"),
    ],
)
def test_what_a_program_does_counts(one, other):
    assert normalised(one) != normalised(other)


FILES = {
    "__init__.py": "from .one import One\n",
    "registry.py": "import methods\n",
    "core/version.py": "CORE_VERSION = 1\n",
    "core/steer.py": "x = 1\n",
    "families/wan.py": "from ..shared import nothing\n",
    "one.py": "from .core.steer import x\nfrom .helper import blur\n\nclass One:\n    name: ClassVar[str] = 'one'\n",
    "two.py": "from . import other\n\n\nclass Two:\n    name = 'two'\n\n    def run(self):\n        from methods.deep.inside import x\n",
    "helper.py": "from .more import *\n",
    "more.py": "import methods.deep.inside\n",
    "other.py": "import os\n",
    "shared.py": "nothing = 0\n",
    "deep/__init__.py": "",
    "deep/inside.py": "from ..other import os\n",
    "calibrated_blocks.json": "[]",
}


@pytest.fixture
def package(tmp_path):
    return written(tmp_path / "methods", FILES)


def key(package, *names, pipeline="WanPipeline", **settings):
    return program_hash([{"method": name} | settings for name in names], pipeline, package=package)


def test_the_closure_follows_every_kind_of_import(package):
    found = {
        name: {f.relative_to(package).as_posix() for f in import_closure(package / f"{name}.py", package, SHARED)}
        for name in ("one", "two")
    }
    assert found["one"] == {"one.py", "helper.py", "more.py", "deep/__init__.py", "deep/inside.py", "other.py"}
    assert found["two"] == {"two.py", "other.py", "deep/__init__.py", "deep/inside.py"}


@pytest.mark.parametrize("file", ["helper.py", "more.py", "deep/inside.py", "deep/__init__.py", "other.py", "one.py"])
def test_a_changed_helper_changes_the_key(package, file):
    before, plain = key(package, "one"), program_hash([], "WanPipeline", package=package)
    (package / file).write_text(FILES[file] + "changed = 1\n")
    assert key(package, "one") != before
    assert program_hash([], "WanPipeline", package=package) == plain, "what is only recorded needs the core alone"


@pytest.mark.parametrize(
    "file", ["two.py", "core/steer.py", "families/wan.py", "shared.py", "registry.py", "__init__.py"]
)
def test_files_that_a_method_does_not_need_or_that_the_version_stands_for_do_not_count(package, file):
    before = key(package, "one")
    (package / file).write_text(FILES[file] + "changed = 1\n")
    assert key(package, "one") == before


def test_comments_in_a_helper_do_not_count(package):
    before = key(package, "one")
    (package / "helper.py").write_text('"""Doc."""\n# why\nfrom .more import *  # all\n')
    assert key(package, "one") == before


def test_a_raised_core_version_changes_every_key(package):
    before = [key(package, "one"), key(package, "two"), program_hash([], "WanPipeline", package=package)]
    (package / "core/version.py").write_text("# why\nCORE_VERSION = 2\n")
    after = [key(package, "one"), key(package, "two"), program_hash([], "WanPipeline", package=package)]
    assert not set(before) & set(after)


def test_the_order_of_methods_and_the_blur_of_the_reference_count(package):
    written(package, {"blur.py": "x = 1\n"})
    assert program_hash([], "WanPipeline", package=package) != program_hash(
        [], "WanPipeline", blurred=True, package=package
    )
    blurred = program_hash([], "WanPipeline", blurred=True, package=package)
    (package / "blur.py").write_text("x = 2\n")
    assert program_hash([], "WanPipeline", blurred=True, package=package) != blurred


def test_calibrated_lists_count_for_their_own_family(package):
    wan = '{"family": "WanTransformer3DModel", "count": 4, "blocks": [1], "source": "a"}'
    other = '{"family": "CogVideoXTransformer3DModel", "count": 4, "blocks": [%d], "source": "a"}'
    (package / "calibrated_blocks.json").write_text(f"[{wan}, {other % 2}]")
    asked, not_asked = key(package, "one", blocks="calibrated"), key(package, "one", blocks="all")
    (package / "calibrated_blocks.json").write_text(f"[{wan}, {other % 3}]")
    assert key(package, "one", blocks="calibrated") == asked
    (package / "calibrated_blocks.json").write_text(f"[{wan.replace('[1]', '[2]')}, {other % 3}]")
    assert key(package, "one", blocks="calibrated") != asked and key(package, "one", blocks="all") == not_asked


def test_files_and_folders_that_a_setting_names_count(package, tmp_path):
    file, folder = written(tmp_path, {"weights/p.bin": "1"}) / "weights/p.bin", tmp_path / "clip"
    written(folder, {"config.json": "{}"})
    before = key(package, "one", projection=str(file)), key(package, "one", clip=str(folder))
    file.write_text("22")
    written(folder, {"config.json": "{ }"})
    after = key(package, "one", projection=str(file)), key(package, "one", clip=str(folder))
    assert before[0] != after[0] and before[1] != after[1]


def test_unknown_methods_are_refused(package):
    with pytest.raises(ValueError, match="unknown method 'three'; allowed are one, two"):
        key(package, "three")


def test_methods_are_found_as_the_registry_finds_them():
    assert {name: file.stem for name, file in method_files().items()} == {
        name: kind.__module__.rsplit(".", 1)[1] for name, kind in find_methods().items()
    }
    assert core_version() == CORE_VERSION
    for kind in find_methods().values():  # the key reads what a setting names from the settings alone
        assert not [
            f.name
            for f in fields(kind)
            if isinstance(f.default, str) and (f.default == "calibrated" or "/" in f.default)
        ]


def test_hashes_follow_changed_contents(tmp_path):
    file = written(tmp_path, {"a.json": "1"}) / "a.json"
    one, all_of = file_hash(file), folder_hash(tmp_path)
    file.write_text("12")
    assert file_hash(file) != one and folder_hash(tmp_path) != all_of
    (tmp_path / "notes.md").write_text("no weights")
    assert folder_hash(tmp_path) == folder_hash(shutil.copytree(tmp_path, tmp_path.with_name("copy")))


def test_keys_need_neither_torch_nor_a_model(monkeypatch):
    monkeypatch.chdir(ROOT)
    parameters = load_parameters()
    for name in ("blur", "methods", "focal", "cogvideox-twin-i2v"):
        assert [c.key for c in expand(parameters, name, checked=False)] == [c.key for c in expand(parameters, name)]
