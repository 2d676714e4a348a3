"""A notebook in this process: a kernel of its own imports for seconds what is here already."""

import matplotlib
import nbformat
import pandas as pd
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config


def outputs_of(path, **parameters):
    """What the cells of the notebook display and end with, {type: content} each; `parameters` go where papermill puts them."""
    ends = []
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        with matplotlib.rc_context(), pd.option_context("display.max_colwidth", None), capture_output() as captured:
            for cell in nbformat.read(path, as_version=4).cells:
                if cell.cell_type == "code":
                    done = shell.run_cell(cell.source)
                    done.raise_error()
                    ends.append(shell.display_formatter.format(done.result)[0])
                if "parameters" in cell.metadata.get("tags", []):
                    shell.user_ns.update(parameters)
    finally:
        InteractiveShell.clear_instance()
    return [output.data for output in captured.outputs] + ends
