"""The page of costs, written from the tables of `make bench`: `PYTHONPATH=. python docs/cost_page.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/cost.md"

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from analysis.report.block_cost_table import markdown

    PAGE.write_text(markdown(ROOT / "results/bench"))
