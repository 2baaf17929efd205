"""The values that say what an averaged model is made of and what it is worth."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from search.figures import number as shown
from search.figures import plural
from search.study.attributes import read


@dataclass(frozen=True)
class Member:
    """One training in an averaged model.

    Attributes:
        number: Its trial.
        run_id: The trial's run in MLflow.
        count: How often it counts.
        seed: The study seed of a training that confirmed the trial; None for the trial's own training.
    """

    number: int
    run_id: str
    count: int = 1
    seed: int | None = None

    @property
    def name(self) -> str:
        """What its model is called inside the averaged one."""
        return f"trial_{self.number}" + ("" if self.seed is None else f"_seed_{self.seed}")


@dataclass(frozen=True)
class Ensemble:
    """Several trainings averaged into one model.

    Attributes:
        members: The trainings, the heaviest first.
        metric: The study's metric.
        value: Its value for the mean on the validation rows; None where the kept outputs do not tell it.
        alone: Its value for the best trial.
        metrics: What was measured on the averaged model: `test_*`, `parameters`, `latency_ms`.
        slower: How many times as long as the best trial's model it takes for a row.
        gain: By how much its loss is lower than the best trial's on validation rows that chose neither; None where a
            search of an earlier version did not keep it.
        run_id: Its run in MLflow.
    """

    members: tuple[Member, ...]
    metric: str
    value: float | None
    alone: float
    metrics: dict[str, float] = field(default_factory=dict)
    slower: float = 1.0
    gain: float | None = None
    run_id: str = ""

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each member, their sum 1."""
        total = sum(member.count for member in self.members)
        return tuple(member.count / total for member in self.members)

    @property
    def test(self) -> dict[str, float]:
        """Its metrics on the test part, by name."""
        return {name: value for name, value in self.metrics.items() if name.startswith("test_")}

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints of it."""
        return {
            "members": [member.number for member in self.members],
            "weights": [round(weight, 6) for weight in self.weights],
            "value": self.value,
            "test": self.test,
            "slower": round(self.slower, 1),
        }

    def record(self) -> dict[str, Any]:
        """Return what `of_record` reads."""
        return asdict(self)

    def __str__(self) -> str:
        what = plural(len(self.members), "trial" if len({member.number for member in self.members}) > 1 else "training")
        value = (
            "" if self.value is None else f": `{self.metric}` {shown(self.value)}; the best alone {shown(self.alone)}"
        )
        gain = "" if self.gain is None else f"; its loss is {shown(self.gain)} lower on rows that chose neither"
        return f"{what} averaged{value}; {self.slower:.1f} times slower a row{gain}"


def of_record(kept: dict[str, Any]) -> Ensemble:
    """Return what `Ensemble.record` wrote."""
    members = tuple(read(Member, member, "an average") for member in kept["members"])
    return read(Ensemble, {**kept, "members": members}, "an average")
