"""What a version must be to carry an alias: declared once, for `search.promote` and `Study.promote`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from search.errors import UsageError
from search.studyfile.options import Option


@dataclass(frozen=True)
class Conditions:
    """What a version must be to pass, beside better in its study's metric."""

    data: Annotated[
        Path | None, Option("Compare on the rows of this CSV, Parquet or NPZ file, target included.", "FILE")
    ] = None
    metrics: Annotated[
        tuple[str, ...],
        Option("Refuse a version that is worse in this metric too; may be repeated.", "M", flags=("--metric",)),
    ] = ()
    slices: Annotated[str | None, Option("Refuse a version that is worse for a value of this column.", "COLUMN")] = None
    max_loss: Annotated[float, Option("Accept a version that is surely not worse by more than X.", "X")] = 0.0
    min_gain: Annotated[float, Option("Accept only a version that is surely better by more than X.", "X")] = 0.0
    max_latency_ms: Annotated[float | None, Option("Refuse a version that takes longer for one row.", "X")] = None
    max_parameters: Annotated[int | None, Option("Refuse a version with more weights.", "N")] = None
    max_size_mb: Annotated[float | None, Option("Refuse a version with a larger Keras file.", "X")] = None
    force: Annotated[bool, Option("Promote even a version that does not pass.")] = False
    reason: Annotated[str, Option("Why; kept in the history. --force needs it.", "TEXT")] = ""

    def __post_init__(self) -> None:
        """Check that the conditions agree with each other.

        Raises:
            UsageError: They do not.
        """
        if self.force and not self.reason.strip():
            raise UsageError('--force needs --reason "TEXT": the history records why')
        for name in ("min_gain", "max_loss", "max_latency_ms", "max_parameters", "max_size_mb"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"--{name.replace('_', '-')} {value}: give a number that is at least 0")
        if self.min_gain and self.max_loss:
            raise UsageError("--min-gain with --max-loss: a version must gain, or may lose; give one of them")

    @property
    def asks(self) -> bool:
        """Whether anything but a reason was asked for."""
        return replace(self, reason="", force=False) != Conditions() or self.force

    @property
    def margin(self) -> float:
        """What the interval of the difference must lie above."""
        return self.min_gain - self.max_loss
