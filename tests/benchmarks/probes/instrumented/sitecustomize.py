"""Times the worker processes of a search that `spans.py` runs: each Python process imports this by itself."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))
import spans

sys.path.pop()
spans.time_workers()
