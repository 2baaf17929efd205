"""Times the worker processes of a search that `spans.py` runs: each Python process imports this by itself."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parent.parent / "spans.py"))["time_workers"]()
