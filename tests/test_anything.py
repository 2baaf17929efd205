"""Whatever a data function returns and a builder does: it trains and can be registered, or one line says why not.

`SEARCH_EXAMPLES=1000` tries so many of each kind.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.data.dataset import Data
from search.data.loading import load
from search.errors import DataError, ModelError, UsageError
from search.study import space
from search.studyfile.load import parse_definition
from search.studyfile.schema import Definition
from search.tracking import logged_model
from search.tracking.user_code import model_code
from search.training import trial
from search.training.dry_run import dry_run
from search.training.probes import probes
from search.workers.fresh import loaded_elsewhere
from tests import studyfiles

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:keras"),  # of a lambda that is saved, for example
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # what was drawn overflows
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:The reported value is ignored"),
    pytest.mark.filterwarnings("ignore:.*ndarray subclass.*:PendingDeprecationWarning"),
]
MANY = int(os.environ.get("SEARCH_EXAMPLES", "0"))
IN_ORDER = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck), "database": None}

ROWS = """
import datetime
import decimal
import pathlib

import numpy as np
import pandas as pd
import scipy.sparse

X = np.random.default_rng(0).normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int)


class Odd:
    def __array__(self, *args, **options):
        raise RuntimeError("no array")


def frame(**columns):
    return pd.DataFrame({"a": X[:, 0], **columns})


def rows(code):
    return eval(code)
"""
INPUTS = """X
X.astype('float16')
X.astype('longdouble')
(X * 9).astype('uint64')
X > 0
X.astype(complex)
X.tolist()
[[1, 2], [3]] * 30
['a text', 'b'] * 30
np.array([b'a', b'b'] * 30)
np.array(['a', 'b'] * 30, object)
np.array(['a', 1] * 30, object)
pd.Series(['a', 'b'] * 30)
pd.Series(X[:, 0], index=range(60, 120))
pd.Categorical(['a', 'b'] * 30)
pd.array([1, None] * 30, dtype='Int64')
np.where(X > 1, np.nan, X)
np.where(X > 1, np.inf, X)
X * 1e300
np.zeros((60, 3))
np.zeros((0, 3))
np.zeros((1, 3))
np.zeros((60, 0))
np.zeros((60, 4, 4, 1), 'uint8')
np.arange(60).astype('datetime64[D]')
np.zeros(60, [('a', 'f4'), ('b', 'i4')])
np.ma.masked_array(X, X > 1)
np.asfortranarray(X)[::-1]
np.array(5)
None
'text'
{}
[]
range(60)
{1, 2}
iter(X)
lambda: X
Odd()
[Odd()] * 60
[pathlib.Path('a')] * 60
[decimal.Decimal(1), 2] * 30
[2**70] * 60
scipy.sparse.csr_matrix(X)
{'a': X, 'b': X[:, :1]}
{'a': X, 'b': None}
{'a': X, 'b': X[:5]}
{'t': ['a', 'b'] * 30, 'n': X}
{1: X}
[X, X[:, :1]]
(X, X[:, :1])
(X,)
{'a': {'b': X}}
X.T
frame()
frame(t=['x', None] * 30)
frame(c=pd.Categorical(['x', 'y'] * 30), b=[True, None] * 30)
frame(l=[[1, 2]] * 60)
frame(d=[{'x': 1}] * 60)
frame(d=pd.date_range('2020-01-01', periods=60))
frame(d=[datetime.date(2020, 1, 1), None] * 30)
frame(b=[b'a', b'b'] * 30)
frame(i=pd.interval_range(0, 60))
frame(s=pd.arrays.SparseArray(X[:, 0]))
pd.DataFrame()
pd.DataFrame(X, columns=list('aab'))
pd.DataFrame(X, columns=[None, 3, ''])
pd.DataFrame(X, index=[0] * 60)
pd.concat({'o': frame()}, axis=1)""".splitlines()
TARGETS = """Y
Y.astype(bool)
Y * 2 - 1
Y[:, None]
np.eye(2)[Y]
['yes' if y else 'no' for y in Y]
np.array(['yes', 'no', None] * 20, object)
[b'a', b'b'] * 30
[['a', 'b'], ['a']] * 30
[{'a'}, {'b'}] * 30
X[:, 0]
X
np.zeros(60)
np.arange(60)
np.where(X[:, 0] > 1, np.nan, X[:, 0])
Y[:50]
{'u': Y, 'v': X[:, 0]}
[Y, X[:, 0]]
[Y.tolist(), X[:, 0].tolist()]
pd.Series(Y, index=range(100, 160))
pd.DataFrame({'u': Y, 'v': X[:, 0]})
pd.Categorical(['a', 'b'] * 30)
pd.array([1, 0] * 30, dtype='Int64')
[True, None] * 30
np.arange(60).astype('datetime64[D]')
[datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)] * 30
Y.astype(complex)
[decimal.Decimal(1), decimal.Decimal(2)] * 30
np.zeros((60, 0))
np.zeros((60, 4, 4))
np.zeros(60, [('a', 'f4')])
scipy.sparse.csr_matrix(np.eye(2)[Y])
np.array([0] * 57 + [1, 2, 3])
[1, 'a'] * 30
['1,5', '0,2'] * 30
[2**70, 1] * 30
[Odd()] * 60
3
{}
[]
None""".splitlines()
WEIGHTS = ["np.ones(60)", "None", "-np.ones(60)", "X", "[1] * 60", "'w'", "{'u': np.ones(60)}", "['a'] * 60", "3"]
SHAPES = """{x}
({x}, {y})
({x}, {y}, {w})
[{x}, {y}]
(({x}, {y}), ({x}, {y}))
(({x}, {y}), ({other}, {y}))
{{'train': ({x}, {y}), 'validation': ({x}, {y})}}
{{'train': ({x}, {y}, {w}), 'test': ({x}, {y})}}
{{'training': ({x}, {y})}}
({x}, {y}, {w}, {x})""".splitlines()
RETURNED = st.builds(
    lambda shape, x, y, w, other: shape.format(x=x, y=y, w=w, other=other),
    st.sampled_from(SHAPES),
    st.sampled_from(INPUTS),
    st.sampled_from(TARGETS),
    st.sampled_from(WEIGHTS),
    st.sampled_from(INPUTS),
)
GOOD = st.builds(
    "({}, {})".format,
    st.sampled_from([each for each in INPUTS if each[0] in "X{([fnp"]),
    st.sampled_from([each for each in TARGETS if each[0] in "Y[{X"]),
)

MODEL = """
import os
import sys

import keras
import numpy as np
import optuna


class Unregistered(keras.layers.Layer):
    def call(self, x):
        return x * 2.0


@keras.saving.register_keras_serializable("anything")
class WithoutConfig(keras.layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, x):
        return self.dense(x)


@keras.saving.register_keras_serializable("anything")
class Step(keras.Model):
    def train_step(self, data):
        x, y = data
        return super().train_step((x, y))


class Silent(Exception):
    def __str__(self):
        return 1 / 0


def build(trial, data, layer="keras.layers.Identity()", then="m", **settings):
    inputs, x = data.inputs()
    x = [e if len(e.shape) == 2 else keras.layers.Flatten()(e) for e in keras.tree.flatten(x)]
    x = keras.layers.Concatenate()(x) if len(x) > 1 else x[0]
    m = keras.Model(inputs, keras.layers.Dense(1)(eval(layer)(x)))
    settings = {name: eval(value) for name, value in settings.items()}
    m.compile(**{"optimizer": "adam", "loss": "mse", **settings})
    return eval(then)
"""
LAYERS = """keras.layers.Dense(trial.suggest_int('units', 2, 3))
keras.layers.Dense(0)
keras.layers.Dense(4, activation=lambda t: t)
keras.layers.Dense(4, activation='nope')
keras.layers.Dense(4, dtype='bfloat16')
keras.layers.Dense(4, kernel_regularizer='l2')
keras.layers.Lambda(lambda t: t)
keras.layers.Dropout(0.5)
keras.layers.GaussianNoise(1.0)
keras.layers.BatchNormalization()
keras.layers.LSTM(3)
keras.layers.Reshape((7,))
keras.layers.Embedding(5, 2)
Unregistered()
WithoutConfig(3)
3""".splitlines()
COMPILED = [
    *(("optimizer", each) for each in ("'nope'", "None", "3", "keras.optimizers.Adam", "keras.optimizers.Muon()")),
    *(("loss", each) for each in ("'nope'", "None", "{}", "['mse', 'mse']", "lambda t, p: keras.ops.mean(t - p)")),
    *(
        ("metrics", each)
        for each in ("['nope']", "'mae'", "['mae', 'mae']", "[keras.metrics.F1Score()]", "{'o': 'mae'}")
    ),
    ("run_eagerly", "True"),
    ("steps_per_execution", "3"),
    ("loss_weights", "[1.0]"),
]
ENDS = """None
(m,)
keras.Model
keras.Sequential()
keras.Model(m.input, {'a': m.output})
Step(m.inputs, m.outputs)
sys.exit(0)
os.chdir('/') or m
1 / 0
next(iter([]))
(_ for _ in ()).throw(Silent())
(_ for _ in ()).throw(optuna.TrialPruned())
(_ for _ in ()).throw(MemoryError())
trial.suggest_float('lr', 2, 1)
trial.suggest_categorical('c', [])
trial.suggest_int('width', 1, 2) and m
trial.params['nope']
data.nope
trial.report(1.0, 0) or m
keras.backend.clear_session() or m
m.fit(data.train.x, data.train.y, verbose=0) and m
setattr(m, 'name', 'a/b') or m
print('\\ud800') or m""".splitlines()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("anything")
    (folder / "anything_rows.py").write_text(ROWS)
    (folder / "anything_model.py").write_text(MODEL)
    return folder


@pytest.fixture(autouse=True)
def _stay() -> Iterator[None]:
    folder = Path.cwd()
    yield
    os.chdir(folder)


def study(place: Path, build: str = "mlp", code: str = "", **model: Any) -> Definition:
    source = {"data.source": "anything_rows.py:rows", "data.options": {"code": code}} if code else {}
    fit = {"fit": {"epochs": 1, "batch_size": 16}, "space": {"width": {"type": "int", "low": 2, "high": 8}}}
    return parse_definition(studyfiles.changed({**source, **fit, "model": {"build": build, **model}}), place / "a.toml")


def one_line(error: UsageError) -> None:
    said = str(error)
    assert said.isprintable()
    assert len(said) < 1200, said
    assert said.startswith(("data", "model", "fit")), said


def registered(definition: Definition, data: Data, folder: Path) -> None:
    """Train one trial after the dry run, and log and load its model; what fails only now should have been told."""
    tried = dry_run(definition, data, itertools.islice(probes(definition, 0), 2), 0.0)
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask(space.distributions(definition))
    result = trial.run(definition, data, asked, seed=0, is_kept=lambda _: True, on_epochs=lambda _: None)
    told = bool(data.doubts) or "is nan after" in result.reason
    assert told or result.fate == "complete", f"{result.reason}\n{result.traceback}"
    if result.model is None:
        return
    example = logged_model.write(folder, result.model, tried.data, model_code(definition), result.answers)
    assert loaded_elsewhere(str(folder), example) == ""


@settings(max_examples=MANY or 150, **IN_ORDER)
@given(code=RETURNED, build=st.sampled_from(["mlp", "anything_model.py:build"]))
def test_whatever_a_data_function_returns_is_data_or_told_in_a_line(place: Path, code: str, build: str) -> None:
    """The person would be shown a traceback through the package, or an error of another's about arrays."""
    try:
        assert isinstance(load(study(place, build, code)), Data)
    except DataError as error:
        one_line(error)


@settings(max_examples=MANY or 10, **IN_ORDER)
@given(code=GOOD, build=st.sampled_from(["mlp", "anything_model.py:build"]))
def test_what_loads_trains_and_can_be_registered(
    place: Path, code: str, build: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The first trial would train, and end in an error that names MLflow."""
    definition = study(place, build, code)
    try:
        registered(definition, load(definition), tmp_path_factory.mktemp("logged") / "model")
    except UsageError as error:
        one_line(error)


@settings(max_examples=MANY or 15, **IN_ORDER)
@given(
    code=st.sampled_from(LAYERS) | st.just("keras.layers.Identity()"),
    compiled=st.just(("loss", "'mse'")) | st.sampled_from(COMPILED),
    then=st.just("m") | st.sampled_from(ENDS),
)
def test_whatever_a_builder_does_trains_or_is_told_in_a_line(
    place: Path, code: str, compiled: tuple[str, str], then: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The person would be shown a traceback, or trials would fail alike all night."""
    name, value = compiled
    definition = study(place, "anything_model.py:build", then=then, layer=code, **{name: value})
    try:
        registered(definition, load(definition), tmp_path_factory.mktemp("logged") / "model")
    except ModelError as error:
        one_line(error)
    keras.backend.clear_session(free_memory=False)
