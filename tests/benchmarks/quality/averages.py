"""What averaging gives, for a fixed number of trials: the test loss of the registered model alone and of means.

    python -m tests.benchmarks.quality.averages FOLDER

Reads what `trainings` kept, with the package's own choice of members, and prints the tables of `results/ensembles.md`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.comparison.predictions import ONLY, About, Predictions
from search.comparison.verdict import Verdict
from search.ensemble import choice
from search.ensemble.choice import Candidates
from tests.benchmarks.quality import tasks
from tests.benchmarks.timing import HERE

Array = NDArray[Any]
_CLIP = 1e-7
_FLOOR = 0.05  # of the trivial model's loss: a difference of losses near 0 is not one of quality
LEAST = 0.005  # of the logarithm of the loss: tasks that differ by less are neither better nor worse
_RESAMPLES = 2000
_BINS = 10
_MARK = "<!-- tables: python -m tests.benchmarks.quality.averages FOLDER --keep -->"
_SHOWN = ("best 5", "best 10", "greedy, 5 of 10", "best 5, if surely better", "greedy, 5 of 10, if surely better")


def losses(kind: str, y: Array, output: Array) -> Array:
    """Return the loss of each row."""
    if kind == "regression":
        return np.asarray(np.square(y.reshape(-1) - output.reshape(-1)), "float64")
    output = np.clip(output.astype("float64"), _CLIP, 1 - _CLIP)
    if kind == "binary":
        p = output.reshape(-1)
        return np.asarray(-np.where(y == 1, np.log(p), np.log(1 - p)))
    output = output / output.sum(axis=-1, keepdims=True)
    return np.asarray(-np.log(output[np.arange(len(y)), y.astype(int)]))


def calibration(kind: str, y: Array, output: Array) -> float:
    """Return the expected calibration error of classes: 10 bins of the highest probability."""
    if kind == "regression":
        return float("nan")
    if kind == "binary":
        output = np.stack([1 - output.reshape(-1), output.reshape(-1)], axis=1)
    sure, right = output.max(axis=1), output.argmax(axis=1) == y
    at = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    parts = [abs(sure[at == each].mean() - right[at == each].mean()) * (at == each).mean() for each in np.unique(at)]
    return float(np.sum(parts))


@dataclass(frozen=True)
class Trained:
    """What was trained for one task and split."""

    task: str
    split: int
    arrays: dict[str, Array]

    @property
    def kind(self) -> str:
        """`binary`, `multiclass` or `regression`."""
        return str(self.arrays["kind"])

    def test(self, outputs: Array) -> Array:
        """Return the mean test loss of each model, of outputs of shape (models, rows, …)."""
        y = self.arrays["y_test"]
        return np.asarray([losses(self.kind, y, each).mean() for each in outputs])

    def candidates(self, outputs: Array, y: Array) -> Candidates:
        """Return models as the package chooses among them, in their order."""
        about = About("", "", self.kind, (), "loss", "minimize")
        kept = [
            Predictions(about, np.arange(len(y)), {ONLY: y}, {ONLY: each}, losses(self.kind, y, each))
            for each in outputs
        ]
        return Candidates(
            kept, lambda given: losses(self.kind, np.tile(y, len(given[ONLY]) // len(y)), given[ONLY]), {}
        )


def floor(kind: str, y: Array) -> float:
    """Return what is added to losses before they are compared: a share of the trivial model's."""
    if kind == "regression":
        return _FLOOR * float(np.var(y))
    share = np.bincount(y.astype(int)) / len(y)
    return _FLOOR * float(-(share[share > 0] * np.log(share[share > 0])).sum())


def read(folder: Path) -> list[Trained]:
    """Return what is kept in a folder."""
    found = []
    for file in sorted(folder.glob("*.outputs.npz")):
        task, _, split = file.name.removesuffix(".outputs.npz").partition("-split")
        with np.load(file) as kept:
            found.append(Trained(task, int(split), {name: kept[name] for name in kept.files}))
    return found


Given = dict[str, tuple[float, float]]  # by way of averaging: test loss and calibration error


def judged(each: Trained) -> Given:
    """Return the test loss and the calibration error of each way."""
    arrays = each.arrays
    order = _finite(np.argsort(arrays["value"], kind="stable"), arrays["validation"])
    validation, test = arrays["validation"][order], arrays["test"][order]
    y, rows = arrays["y_validation"], np.arange(len(arrays["y_validation"]))
    pool = each.candidates(validation, y)
    found: dict[str, Array] = {"alone": test[0]}
    for most in (3, 5, 8, 10):
        found[f"best {most}"] = _mean(test, choice.choose(pool, most, rows, greedy=False))
    near = _near(pool)
    for most in (5,):
        found[f"near {most}"] = test[near[:most]].mean(axis=0)
        some = each.candidates(validation[near], y)
        verdict = choice.judge(some, most, greedy=False) if len(near) > 1 else None
        for rule, accepts in RULES.items():
            kept = verdict is not None and accepts(verdict)
            found[f"near {most}, if {rule}"] = found[f"near {most}" if kept else "alone"]
    for first in (5, 10, 24):
        some = each.candidates(validation[:first], y)
        for most in (5,):
            found[f"greedy, {most} of {first}"] = _mean(test, choice.choose(some, most, rows, greedy=True))
    for most in (5, 10):
        verdict = choice.judge(pool, most, greedy=False)
        for rule, accepts in RULES.items():
            found[f"best {most}, if {rule}"] = found[f"best {most}" if accepts(verdict) else "alone"]
    verdict = choice.judge(each.candidates(validation[:10], y), 5, greedy=True)
    for rule, accepts in RULES.items():
        found[f"greedy, 5 of 10, if {rule}"] = found["greedy, 5 of 10" if accepts(verdict) else "alone"]
    seeds = np.concatenate([test[:1], arrays["seed_test"]])
    found |= {f"winner's seeds, {count}": seeds[:count].mean(axis=0) for count in (3, 5)}
    found["winner under another seed"] = seeds[1]
    found["winner, 2 seeds and best 3"] = np.concatenate([seeds[:3], test[1:3]]).mean(axis=0)
    found["reshuffled"] = arrays["moved_test"][int(np.argmin(arrays["moved_value"]))]
    found["supported by neighbours"] = test[_supported(each, order, pool)]
    moved = np.argsort(arrays["moved_value"], kind="stable")
    found["reshuffled, best 5"] = arrays["moved_test"][moved[:5]].mean(axis=0)
    if "fold_out" in arrays:
        found |= _folded(each)
    y_test = arrays["y_test"]
    return {
        name: (float(losses(each.kind, y_test, output).mean()), calibration(each.kind, y_test, output))
        for name, output in found.items()
    }


def _finite(order: Array, outputs: Array) -> Array:
    return order[np.isfinite(outputs[order]).reshape(len(order), -1).all(axis=1)]


RULES: dict[str, Callable[[Verdict], bool]] = {
    "surely better": lambda verdict: verdict.better is True,
    "better": lambda verdict: (verdict.difference or 0) > 0,
    "not surely worse": lambda verdict: verdict.better is not False,
}


def _mean(test: Array, counts: Array) -> Array:
    return np.asarray(np.tensordot(counts / counts.sum(), test[: len(counts)], axes=1))


def _folded(each: Trained) -> dict[str, Array]:
    """Return what folds give: the trials of a search of their own, fewer of them."""
    arrays = each.arrays
    order = _finite(np.argsort(arrays["fold_value"].mean(axis=1), kind="stable"), arrays["fold_out"])
    refit, parts = arrays["refit_test"][order], arrays["fold_test"][order].mean(axis=1)
    y = arrays["y_rest"]
    pool = each.candidates(arrays["fold_out"][order], y)
    rows = np.arange(len(y))
    single = np.argsort(arrays["value"][: len(order)], kind="stable")[0]
    found = {
        "12 trials, alone": arrays["test"][single],
        "12 trials, best 5": arrays["test"][np.argsort(arrays["value"][: len(order)], kind="stable")[:5]].mean(axis=0),
        "folds, refit": refit[0],
        "folds, winner's five": parts[0],
        "folds, refit of best 5": refit[:5].mean(axis=0),
        "folds, five each of best 5": parts[:5].mean(axis=0),
    }
    for most in (5, 8):
        found[f"folds, refit, greedy {most}"] = _mean(refit, choice.choose(pool, most, rows, greedy=True))
    verdict = choice.judge(pool, 5, greedy=True)
    for rule, accepts in RULES.items():
        found[f"folds, refit, greedy 5, if {rule}"] = found[
            "folds, refit, greedy 5" if accepts(verdict) else "folds, refit"
        ]
    return found


def _near(pool: Candidates) -> Array:
    """Return the trials within one standard error of the best, in their order."""
    difference = pool.loss - pool.loss[0]
    error = difference.std(axis=1, ddof=1) / np.sqrt(difference.shape[1])
    return np.flatnonzero(difference.mean(axis=1) <= error)


def _supported(each: Trained, order: Array, pool: Candidates) -> int:
    """Return the trial, of those within a standard error of the best, whose neighbours in the space are best."""
    near = _near(pool)
    params, columns = each.arrays["params"][order], []
    for at, name in enumerate(each.arrays["names"]):
        wanted = tasks.SPACE[str(name)]
        if wanted["type"] == "categorical":
            columns.append((params[:, at][:, None] != params[:, at][None]).astype(float))
            continue
        values = params[:, at].astype(float)
        low, high = float(wanted["low"]), float(wanted["high"])
        scale = (
            (np.log(values) - np.log(low)) / np.log(high / low) if wanted.get("log") else (values - low) / (high - low)
        )
        columns.append(np.abs(scale[:, None] - scale[None]))
    distance = np.sum(columns, axis=0)
    value = each.arrays["value"][order]
    smoothed = [float(value[np.argsort(distance[at], kind="stable")[:4]].mean()) for at in near]
    return int(near[int(np.argmin(smoothed))])


def summary(found: dict[tuple[str, int], Given], floors: dict[tuple[str, int], float], base: str) -> list[list[str]]:
    """Return a row for each way: how its test loss compares with that of `base`, and in how many tasks."""
    names = list(dict.fromkeys(name for given in found.values() for name in given))
    rows = []
    for name in names:
        keys = [key for key, given in found.items() if name in given and base in given]
        if not keys:
            continue
        ratio = {key: np.log((found[key][name][0] + floors[key]) / (found[key][base][0] + floors[key])) for key in keys}
        by_task = {
            task: [value for key, value in ratio.items() if key[0] == task]
            for task in dict.fromkeys(key[0] for key in keys)
        }
        means = np.asarray([np.mean(values) for values in by_task.values()])
        low, high = _interval(list(by_task.values()))
        ece = [found[key][name][1] - found[key][base][1] for key in keys if np.isfinite(found[key][name][1])]
        rows.append(
            [
                name,
                f"{np.expm1(means.mean()):+.1%}",
                f"{np.expm1(low):+.1%} to {np.expm1(high):+.1%}",
                f"{int((means < -LEAST).sum())} / {int((means > LEAST).sum())}",
                f"{np.expm1(means.max()):+.1%}",
                f"{np.mean([value > 0.05 for value in ratio.values()]):.0%}",
                f"{np.mean(ece):+.4f}" if ece else "–",
                f"{len(means)} / {len(keys)}",
            ]
        )
    return rows


def _interval(by_task: list[list[float]]) -> tuple[float, float]:
    """Return the 95 % interval of the mean over tasks: tasks are drawn, and splits within them."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(_RESAMPLES):
        picked = rng.integers(0, len(by_task), len(by_task))
        drawn.append(np.mean([np.mean(rng.choice(by_task[each], len(by_task[each]))) for each in picked]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


COLUMNS = ["", "loss", "95 %", "tasks better / worse", "worst task", "splits 5 % worse", "ECE", "tasks / splits"]


def main() -> None:
    """Print the tables, and write them and the picture to the results."""
    from tests.benchmarks.quality.parts import as_markdown

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", action="store_true", help="write the tables to results/ensembles.md")
    asked = parser.parse_args()
    kept = read(asked.folder)
    found = {(each.task, each.split): judged(each) for each in kept}
    floors = {(each.task, each.split): floor(each.kind, each.arrays["y_test"]) for each in kept}
    rows = {(each.task, each.split): len(each.arrays["y_validation"]) for each in kept}
    folded = {key: given for key, given in found.items() if "folds, refit" in given}
    whole = [row for row in summary(found, floors, "alone") if "fold" not in row[0] and "12 trials" not in row[0]]
    folds = [row for row in summary(folded, floors, "folds, refit") if "fold" in row[0] or "12 trials" in row[0]]
    tables = {f"All {len(found)} searches": whole}
    for name, keys in (
        ("300 validation rows and more", [key for key in found if rows[key] >= 300]),
        ("fewer", [key for key in found if rows[key] < 300]),
    ):
        chosen = summary({key: found[key] for key in keys}, floors, "alone") if keys else []
        tables[name] = [row for row in chosen if row[0] in _SHOWN]
    tables["Five folds, 12 trials, beside the best trial's refit"] = folds
    lines: list[str] = []
    for name, several in tables.items():
        lines += [f"{name}:", "", *as_markdown(COLUMNS, several), ""]
    print("\n".join(lines))
    if asked.keep:
        file = HERE / "results" / "ensembles.md"
        head = file.read_text(encoding="utf-8").partition(_MARK)[0] if file.is_file() else "# Ensembles\n\n"
        file.write_text(f"{head}{_MARK}\n\n" + "\n".join(lines), encoding="utf-8")
        _draw(whole, file.with_suffix(".png"))


def _draw(rows: list[list[str]], file: Path) -> None:
    """Draw the change of the test loss of each way, with its interval."""
    import matplotlib.figure

    def number(text: str) -> float:
        return float(text.rstrip("%"))

    shown = [row for row in rows if row[0] != "alone"][::-1]
    middle = np.asarray([number(row[1]) for row in shown])
    ends = np.asarray([[number(each) for each in row[2].split(" to ")] for row in shown])
    figure = matplotlib.figure.Figure(figsize=(7, 7), layout="constrained")
    axes = figure.subplots()
    spread = np.abs(ends.T - middle)
    axes.errorbar(middle, range(len(shown)), xerr=spread, fmt="o", capsize=2)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [row[0] for row in shown])
    axes.set(xlabel="test loss beside the best trial's alone, %, with its 95 % interval")
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
