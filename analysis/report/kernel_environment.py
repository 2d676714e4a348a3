"""The environment of an executed notebook: what the user has set up for other work does not change the copy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

FIXED = {
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # with Agg, usual on servers, figures are not shown
    "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this environment before one of the same name in the home folder
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # in a notebook a bar is a widget, with a new id in every run
}
UNSET = ("MATPLOTLIBRC", "PYTHONSTARTUP", "JUPYTER_PATH")  # another style, code and kernel


@contextmanager
def kernel_environment() -> Iterator[None]:
    """Set the environment variables that a kernel started in this block inherits, and restore them after it.

    IPython's folder is an empty one: startup files and configuration (`InlineBackend.figure_formats`) would change outputs.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(FIXED, IPYTHONDIR=folder)
        for name in UNSET:
            os.environ.pop(name, None)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
