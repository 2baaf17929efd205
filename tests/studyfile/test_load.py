"""Study files: whatever stands in one, it is either a study or one line that says what is wrong."""

from __future__ import annotations

import pickle
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.errors import StudyFileError, UsageError
from search.studyfile.checks import wrong_directions
from search.studyfile.load import find_study, load_definition, parse_definition, shipped_studies
from search.studyfile.messages import pasted
from search.studyfile.schema import Definition, parse_constraint
from tests.studyfiles import VALID, changed, definition

INT = {"type": "int", "low": 1, "high": 9}
FILE = Path("folder/mine.toml")

MISTAKES: list[tuple[dict[str, Any], str]] = [
    # keys
    ({"metrc": "x"}, "metrc: unknown key; did you mean 'metric'. known here: name, metric"),
    ({"Data": {}}, "Data: unknown key; .*did you mean 'data'"),
    ({"path": "x"}, "path: unknown key; known here"),
    ({"data.sorce": "x"}, "data.sorce: unknown key; .*did you mean 'source'"),
    ({"test_size": 0.3}, r"test_size: unknown key; it belongs in \[data\]"),
    ({"data.sampler": "tpe"}, r"data.sampler: unknown key; it belongs in \[search\]"),
    ({"data.metric": "loss"}, "data.metric: unknown key; it belongs at the top"),
    ({"space.width": {"type": "int", "lwo": 1, "high": 2}}, "space.width.lwo: unknown key; .*did you mean 'low'"),
    ({"search.warm_start": {"studyy": "x"}}, "search.warm_start.studyy: unknown key; .*did you mean 'study'"),
    ({"fit.early_stopping": {"patiense": 2}}, "fit.early_stopping.patiense: .*did you mean 'patience'"),
    ({"name": None}, "name: missing; give text"),
    ({"data": None}, "data: missing; give a table"),
    ({"space": None}, "space: empty; give at least one parameter to search"),
    # types
    ({"metric": 5}, "metric: 5; use text or a list of texts"),
    ({"metric": ["val_loss", 3]}, r"metric\[1\]: 3; use text"),
    ({"data": "csv:x"}, "data: 'csv:x'; use a table"),
    ({"model": [{}]}, r"model: \[a table\]; use a table"),
    ({"data.test_size": True}, "data.test_size: true; use a number above 0 and below 1"),
    ({"data.test_size": "0.3"}, "data.test_size: '0.3'; use a number above 0 and below 1"),
    ({"data.target": ["a", 1]}, r"data.target\[1\]: 1; use text"),
    ({"data.stratify": "yes"}, "data.stratify: 'yes'; use true or false"),
    ({"model.width": [1]}, r"model.width: \[1\]; use a number, text, true or false"),
    ({"model.width": date(2024, 1, 1)}, "model.width: 2024-01-01; use a number, text, true or false"),
    ({"model.dropout": float("nan")}, "model.dropout: nan; use a finite number"),
    ({"space.width": 5}, "space.width: 5; use a table such as"),
    ({"space.width": {}}, "space.width.type: missing; use 'int', 'float' or 'categorical'"),
    ({"space.width": {"type": "integer"}}, "space.width.type: 'integer'; use 'int', .*did you mean 'int'"),
    ({"space.width": {"type": "int", "low": 1}}, "space.width.high: missing; give a whole number"),
    ({"space.width": {**INT, "low": 1.0}}, "space.width.low: 1.0; use a whole number"),
    ({"space.width": {**INT, "low": 10**400}}, "space.width.low: a huge number; use at most 9007199254740992"),
    ({"space.int": {**INT, "low": "x"}}, "space.int.low: 'x'; use a whole number"),
    ({"space.width": {"type": "categorical", "choices": 8}}, "space.width.choices: 8; use a list of values"),
    ({"enqueue": {"epochs": 1}}, "enqueue: a table; use a list of tables"),
    ({"enqueue": [5]}, r"enqueue\[0\]: 5; use a table"),
    ({"enqueue": [{"epochs": [1]}]}, r"enqueue\[0\].epochs: \[1\]; use a number, text"),
    ({"fit.class_weight": {"a": "b"}}, "fit.class_weight.a: 'b'; use a number of at least 0"),
    ({"fit.class_weight": "balancd"}, "fit.class_weight: 'balancd'; .*did you mean 'balanced'"),
    ({"fit.callbacks": "x"}, "fit.callbacks: 'x' is not a list; use a list of names and tables, or '<file.py>"),
    ({"fit.callbacks": [{"patience": 3}]}, r"fit.callbacks\[0\].class: missing; give text"),
    ({"fit.callbacks": [3]}, r"fit.callbacks\[0\]: 3; use a table"),
    ({"metrics": {"f2": {"function": "f"}}}, "metrics.f2.function: 'f' is not a function"),
    ({"metrics": {"val_f2": {"function": "m:f"}}}, "metrics.val_f2: not a valid metric name"),
    ({"metrics": {"f2": {"function": "no.py:f"}}}, "metrics.f2.function: no file folder/no.py"),
    ({"fit.function": "train"}, "fit.function: 'train' is not a function"),
    ({"model.export": "encoder"}, "model.export: 'encoder' is not a function"),
    ({"metric_s": 3}, "metric_s: unknown key; did you mean 'metrics'. known here: "),
    ({"fit.early_stopping": True}, "fit.early_stopping: true; use a table"),
    ({"search.workers": 1.5}, "search.workers: 1.5; use a whole number of at least 1 or 'auto'"),
    # values
    ({"name": "a/b"}, "name: 'a/b' is not a valid name"),
    ({"name": ""}, "name: '' is not a valid name"),
    ({"name": "a\n"}, "name: .*is not a valid name"),
    ({"name": "a "}, "name: 'a ' is not a valid name"),
    ({"name": ".."}, "name: '..' is not a valid name"),
    ({"name": "ä" * 150}, "name: .*is not a valid name.*at most 200 bytes"),
    ({"metric": []}, "metric: empty; give a metric's name"),
    (
        {"metric": ["a", "a"], "direction": ["minimize", "minimize"]},
        "metric: 'a' is named twice; name each metric once",
    ),
    ({"metric": "test_loss"}, "metric: 'test_loss' would choose by the test part; use 'val_loss'"),
    ({"metric": ["a", "b"]}, "direction: 1 for 2 metrics; give one direction for each"),
    ({"direction": "minimise"}, "direction: 'minimise'; use 'minimize' or 'maximize'.*did you mean 'minimize'"),
    ({"data.source": "blobs"}, "data.source: 'blobs' is not a valid source; use 'sklearn:<loader>'"),
    ({"data.test_size": 1.5}, "data.test_size: 1.5; use a number above 0 and below 1"),
    ({"data.validation_size": 0}, "data.validation_size: 0; use a number above 0"),
    ({"data.folds": 1}, "data.folds: 1; use a whole number of at least 2"),
    ({"data.task": "binry"}, "data.task: 'binry'; .*did you mean 'binary'"),
    ({"data.stratify": True, "data.time": "b"}, "data: stratify with group or time; leave stratify out"),
    ({"data.target": "y", "data.features": ["y"]}, "data.features: names the target 'y'"),
    ({"data.target": "y", "data.group": "y"}, "data.group: is the target"),
    ({"data.drop": ["a"], "data.features": ["a"]}, "data.drop: 'a' is in features too"),
    ({"data.features": []}, "data.features: empty; name at least one column"),
    ({"space": {}}, "space: empty; give at least one parameter"),
    ({"space.width": {**INT, "low": 10}}, "space.width: low = 10 is above high = 9"),
    ({"space.width": {**INT, "low": 0, "log": True}}, "space.width: low = 0 with log = true; low must be above 0"),
    ({"space.width": {**INT, "step": 3}}, "space.width: high = 9 cannot be reached in steps of 3; use high = 7"),
    ({"space.width": {**INT, "step": 0}}, "space.width: step = 0; step must be above 0"),
    ({"space.width": {**INT, "step": 2, "log": True}}, "space.width: step with log = true"),
    ({"space.dropout": {"type": "float", "low": 0.0, "high": float("inf")}}, "space.dropout.high: inf; use a finite"),
    ({"space.width": {"type": "categorical", "choices": []}}, "space.width.choices: empty"),
    ({"space.width": {"type": "categorical", "choices": [1, True]}}, "1 and true are the same choice"),
    ({"space.width": {"type": "categorical", "choices": [8, 8.0]}}, "8 and 8.0 are the same choice"),
    ({"space.width": {"type": "categorical", "choices": ["x" * 501]}}, "a choice of 501 characters"),
    ({"space.": INT}, "space.: not a valid parameter name"),
    ({"space.a//b": INT, "model.build": "m:f"}, "space.a//b: not a valid parameter name"),
    ({"space.widht": INT}, "space.widht: the built-in 'mlp' has no such parameter; .*did you mean 'width'"),
    ({"space.dropout": {"type": "float", "low": 0.0, "high": 1.5}}, "space.dropout: .*takes numbers of at least 0"),
    ({"space.depth": {"type": "float", "low": 1, "high": 3}}, "space.depth: .*takes whole numbers"),
    ({"model.batch_norm": 1}, "model.batch_norm: 1; use true or false"),
    ({"model.dropout": 0.1}, r"model.dropout: fixed here and searched in \[space\]"),
    ({"model.epochs": 3}, r"model.epochs: .*"),
    ({"model.early_stopping": 3}, r"model.early_stopping: a setting of fit, not of the model; put it in \[fit\]"),
    ({"model.build": "mpl"}, "model.build: 'mpl' is not a builder; .*did you mean 'mlp'"),
    ({"space.epochs": None}, r"space.epochs: epochs is not given; add epochs to \[space\] or to \[fit\]"),
    ({"space.epochs": {"type": "int", "low": 0, "high": 3}}, "space.epochs: not only whole numbers of at least 1"),
    ({"fit.epochs": 3}, r"fit.epochs: fixed here and searched in \[space\]"),
    ({"enqueue": [{"epochs": 100}]}, r"enqueue\[0\].epochs: 100 is outside the space; use a whole number from 1 to 3"),
    ({"enqueue": [{"epochs": True}]}, r"enqueue\[0\].epochs: true is outside the space"),
    ({"enqueue": [{"epoch": 1}]}, r"enqueue\[0\].epoch: not in \[space\]; .*did you mean 'epochs'"),
    ({"enqueue": [{}]}, r"enqueue\[0\]: empty"),
    ({"search.sampler": "tpee"}, "search.sampler: 'tpee'; .*did you mean 'tpe'"),
    ({"search.pruner": "medain"}, "search.pruner: 'medain'; .*did you mean 'median'"),
    ({"search.n_trials": 0}, "search.n_trials: 0; use a whole number of at least 1"),
    ({"search.constraints": ["latency_ms < 5"]}, "'latency_ms < 5' is not a valid constraint; write for example"),
    ({"search.constraints": ["loss <= 1e999"]}, "'loss <= 1e999' is not a valid constraint"),
    ({"search.constraints": ["test_loss <= 5"]}, r"search.constraints\[0\]: 'test_loss' would choose by the test part"),
    ({"search.repeats": 2, "data.folds": 3}, "search.repeats: given with data.folds; use one of the two"),
    (
        {"metric": ["a", "b"], "direction": ["minimize", "minimize"], "search.target": 0.0},
        "search.target: given with several metrics",
    ),
    ({"search.warm_start": {"study": "small"}}, "search.warm_start.study: 'small' is this study itself"),
    # files
    ({"data.source": "csv:no.csv", "data.target": "y"}, "data.source: no file folder/no.csv; paths are relative"),
    ({"data.source": "csv:no.csv"}, "data.target: missing; name the target column"),
    ({"data.source": f"csv:{'x' * 5000}", "data.target": "y"}, "data.source: no file"),
    ({"data.source": "no.py:f"}, "data.source: no file folder/no.py"),
    ({"model.build": "no.py:f"}, "model.build: no file folder/no.py"),
    ({"fit.callbacks": ["no.py:F"]}, r"fit.callbacks\[0\]: no file folder/no.py"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES, ids=[f"{i}-{min(m[0])}" for i, m in enumerate(MISTAKES)])
def test_each_mistake_is_told_with_its_key_and_what_would_be_right(changes: dict[str, Any], message: str) -> None:
    """A person would face a traceback, or a study that silently does something else."""
    with pytest.raises(StudyFileError, match=message) as raised:
        parse_definition(changed(changes), FILE)
    assert str(raised.value).startswith(f"{FILE}: ")
    assert raised.value.expected


RIGHT: list[dict[str, Any]] = [
    {},
    {"name": "größe 2.1-b"},
    {"metric": ["val_loss", "parameters"], "direction": ["minimize", "minimize"]},
    {"metric": ["val_loss"], "direction": ["minimize"]},
    {"data.test_size": 0.5, "data.folds": 5},
    {"space.int": INT, "model.build": "m:f"},
    {"space.net/width": INT, "model.build": "m:f", "model.flag": True},
    {"space.dropout": {"type": "float", "low": 0, "high": 0.9, "step": 0.3}},
    {"space.activation": {"type": "categorical", "choices": ["relu", "tanh"]}},
    {"model.depth": 0, "model.optimizer": "sgd", "model.batch_norm": True},
    {"enqueue": [{"epochs": 1, "dropout": 0.25}, {"batch_size": 16}]},
    {"enqueue": [{"anything": "x"}], "model.build": "m:f"},
    {"fit.class_weight": {"a": 1, "b": 2.5}, "fit.callbacks": ["TerminateOnNaN"]},
    {"fit.callbacks": "m:callbacks", "fit.function": "m:fit", "model.export": "m:encoder"},
    {"fit.callbacks": [{"class": "CSVLogger", "filename": "log.csv"}, "TerminateOnNaN"]},
    {"metrics": {"f2": {"function": "sklearn.metrics:fbeta_score", "options": {"beta": 2}}}, "metric": "val_f2"},
    {"search.constraints": ["latency_ms <= 5", "val_f1-score>=0.5"]},
    {"search.workers": 3, "search.timeout": 5},
]


@pytest.mark.parametrize("changes", RIGHT)
def test_what_is_right_is_taken(changes: dict[str, Any]) -> None:
    """A check that is too strict would keep a person from a study that works."""
    assert definition(changes).space


def test_truth_values_and_numbers_keep_their_kind() -> None:
    """A choice of true that becomes 1 would be another parameter to the builder."""
    kept = definition({"model.build": "m:f", "model.a": True, "model.b": 1, "model.c": 1.5}).model.fixed
    assert [type(value) for value in kept.values()] == [bool, int, float]


def test_a_definition_is_frozen_and_survives_the_way_to_a_worker() -> None:
    """A study that changed on its way would train something else than was asked for."""
    one = definition({"search.sampler_options": {"n_startup_trials": 3}})
    with pytest.raises(ValueError, match="frozen"):
        one.name = "x"  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert again.digest == one.digest
    assert definition({"data.seed": 2}).digest != one.digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name = \n", "not valid TOML .*line 1"),
        (b"a = 1\na = 2\n", "not valid TOML .*line 2"),
        (b'name = "a\nb = 1\n', 'line 1: name = "a.; use valid TOML'),
        (b"name = '\xff'", "not UTF-8 text"),
        (b"a = " + b"9" * 5000, "not valid TOML"),
        (b"a = " + b"[" * 5000, "not valid TOML"),
        (b"", "missing"),
    ],
)
def test_a_broken_file_is_told_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    """A person would see the parser's traceback instead of the line to mend."""
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(StudyFileError, match=message) as raised:
        load_definition(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "hint", "told"),
    [
        ('options = { sep = ";" }', 'options = { decimal = "," }', 'options = { sep = ";", decimal = "," }'),
        ('options = { na_values = "x" }', 'options = { na_values = ["?"] }', 'options = { na_values = ["x", "?"] }'),
        ("", "options = { index_col = 0 }", "options = { index_col = 0 }"),
        ('drop = ["a"]', 'drop = ["id"] in [data]', 'drop = ["a", "id"] in [data]'),
        ('[data.options]\nsep = ";"', 'options = { decimal = "," }', 'decimal = "," in [data.options]'),
        ("", "options = { x = …, y = … }", "options = { x = …, y = … }"),
    ],
)
def test_a_hint_can_be_pasted_into_the_file(file: str, hint: str, told: str, tmp_path: Path) -> None:
    """A second `options` would break the file, and a first one forget how the table is written."""
    study = (
        'name = "a"\nmetric = "val_loss"\ndirection = "minimize"\nspace.epochs = { type = "int", low = 1, high = 2 }\n'
    )
    (tmp_path / "t.csv").write_text("y\n1\n")
    (tmp_path / "a.toml").write_text(f'{study}[data]\nsource = "csv:t.csv"\ntarget = "y"\n{file}\n')
    assert pasted(f"say {hint}, or", load_definition(tmp_path / "a.toml")) == f"say {told}, or"


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    """A mistyped path would end in a traceback."""
    with pytest.raises(StudyFileError, match=r"no.toml: cannot be read \(No such file"):
        load_definition(tmp_path / "no.toml")
    with pytest.raises(StudyFileError, match=r"cannot be read \(Is a directory"):
        load_definition(tmp_path)


def test_a_file_of_a_windows_editor_is_read(tmp_path: Path) -> None:
    """A byte order mark and carriage returns would make a right file look broken."""
    path = tmp_path / "windows.toml"
    text = shipped_studies()["blobs"].read_text(encoding="utf-8")
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_definition(path).name == "blobs"


def test_every_shipped_study_is_valid() -> None:
    """The first thing a person runs would fail."""
    for name, path in shipped_studies().items():
        assert load_definition(path).name == name


def test_a_study_is_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's own study of the same name must win over the shipped one."""
    monkeypatch.chdir(tmp_path)
    assert find_study("blobs") == shipped_studies()["blobs"]
    own = tmp_path / "studies" / "blobs.toml"
    own.parent.mkdir()
    own.write_text("")
    assert find_study("blobs") == Path("studies/blobs.toml")
    assert find_study(str(own)) == own
    with pytest.raises(UsageError, match=r"no study 'blob' in studies/.*did you mean 'blobs'"):
        find_study("blob")
    with pytest.raises(UsageError, match=r"no such study file; give a \.toml file"):
        find_study("x/y.toml")
    with pytest.raises(UsageError, match="no study"):
        find_study("x" * 5000)


def test_a_constraint_is_read() -> None:
    """A constraint read wrongly would let a model through that is too slow to serve."""
    assert parse_constraint(" latency_ms<=5 ") == ("latency_ms", "<=", 5.0)
    assert parse_constraint("val_f1-score >= -1e-3") == ("val_f1-score", ">=", -1e-3)


# Property tests: whatever a person writes.

SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, -(2**63), 2**53 + 1, 0, -1]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["val_loss", "int", "float", "categorical", "mlp", "csv:a.csv", "a.py:b", "tpe", "minimize", ""]),
    st.dates(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["type", "low", "high", "step", "log", "choices", "x", ""]), inner, max_size=4),
    ),
    max_leaves=5,
)
KEYS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["name", "metric", "direction", "data", "model", "fit", "space", "enqueue", "search", "path"]),
    st.sampled_from(list(Definition.model_fields["data"].annotation.model_fields)),  # type: ignore[union-attr]
    st.sampled_from(list(Definition.model_fields["fit"].annotation.model_fields)),  # type: ignore[union-attr]
    st.sampled_from(list(Definition.model_fields["search"].annotation.model_fields)),  # type: ignore[union-attr]
    st.sampled_from(["epochs", "width", "dropout", "low", "high", "type", "choices", "step", "log"]),
)
PROPERTY = settings(max_examples=600, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def _study_or_line(content: dict[str, Any]) -> None:
    refused, parsed = None, None
    try:
        parsed = parse_definition(content, FILE)
    except StudyFileError as error:
        refused = error
    if refused is not None:
        assert str(refused).startswith(f"{FILE}: ")
        assert len(str(refused).splitlines()) == 1
        assert refused.found
        assert refused.expected
    if parsed is not None:
        assert parsed.digest
        assert pickle.loads(pickle.dumps(parsed)) == parsed or "nan" in repr(parsed)


def _tables(content: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [each for each in content.values() if isinstance(each, dict)]
    return [content, *(table for each in inner for table in _tables(each))]


@given(data=st.data())
@PROPERTY
def test_any_value_at_any_key_is_a_study_or_one_line(data: st.DataObject) -> None:
    """A value nobody thought of would end in a traceback."""
    content = changed()
    for _ in range(data.draw(st.integers(1, 3))):
        table = data.draw(st.sampled_from(_tables(content)))
        table[data.draw(st.one_of(KEYS, st.sampled_from([*table, "x"])))] = data.draw(VALUES)
    _study_or_line(content)


@given(content=st.dictionaries(KEYS, VALUES, max_size=8))
@PROPERTY
def test_any_table_is_a_study_or_one_line(content: dict[str, Any]) -> None:
    """A file that is no study at all would end in a traceback."""
    _study_or_line({**VALID, **content})
    _study_or_line(content)


@given(text=st.text(max_size=60), at=st.integers(0, 600))
@PROPERTY
def test_any_text_in_a_file_is_a_study_or_one_line(tmp_path: Path, text: str, at: int) -> None:
    """A slip of the keyboard would end in a traceback."""
    valid = shipped_studies()["blobs"].read_text(encoding="utf-8")
    path = tmp_path / "slip.toml"
    path.write_text(valid[:at] + text + valid[at:], encoding="utf-8", errors="replace", newline="")
    told = f"{path}: a study"
    try:
        load_definition(path)
    except StudyFileError as error:
        told = str(error)
    assert told.startswith(f"{path}: ")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("metric", "right"),
    [
        *(
            (name, "maximize")
            for name in ("val_accuracy", "val_acc", "auc", "val_auc_1", "val_precision", "val_recall_2")
        ),
        *(
            (name, "maximize")
            for name in ("val_f1", "val_f1_score", "val_f2", "val_r2_score", "val_mean_io_u", "val_pr_auc")
        ),
        *((name, "maximize") for name in ("val_sparse_top_k_categorical_accuracy", "val_binary_accuracy", "val_MCC")),
        *(
            (name, "minimize")
            for name in ("val_loss", "loss", "val_head_loss", "val_mae", "val_root_mean_squared_error")
        ),
        *((name, "minimize") for name in ("val_mse", "val_rmse", "val_log_loss", "parameters", "latency_ms")),
        *(
            (name, "minimize")
            for name in ("val_sparse_categorical_crossentropy", "val_error_rate", "val_accuracy_loss")
        ),
        *(
            (name, "maximize")
            for name in ("val_F1Score", "val_matthews_corrcoef", "val_explained_variance", "val_psnr")
        ),
        *((name, "minimize") for name in ("val_logloss", "val_brier_score", "val_rmsle", "val_smape", "val_nll")),
        *((name, None) for name in ("val_mine", "score", "val_cosine_similarity", "val_profit", "val_filter")),
    ],
)
def test_a_direction_that_a_known_name_contradicts_is_told(metric: str, right: str | None) -> None:
    """The worst model would be registered: a direction was mistaken, and nobody says so."""
    for direction in ("minimize", "maximize"):
        told = list(wrong_directions(definition({"metric": metric, "direction": direction})))
        assert told == (
            [f'direction = "{direction}" makes the worst {metric} the best; use direction = "{right}"']
            if right not in (None, direction)
            else []
        )


def test_all_mistakes_are_told_at_once() -> None:
    """A person would mend one mistake at a time, and start the search for each."""
    with pytest.raises(StudyFileError) as told:
        parse_definition(
            changed({"fit.epoch": 1, "direction": "down", "search.n_trials": 0, "data.tset_size": 0.2}), Path("a.toml")
        )
    line = str(told.value)
    for said in (
        "fit.epoch: unknown key; did you mean 'epochs'? known here: ",
        "data.tset_size: unknown key",
        "n_trials: 0",
    ):
        assert said in line
    assert "direction: 'down'; use 'minimize' or 'maximize'" in line
    assert len(told.value.others) == 3
    with pytest.raises(StudyFileError, match=r"^a.toml: metric: 'test_loss' .* -- also space.widht: the built-in"):
        parse_definition(
            changed({"metric": "test_loss", "space.widht": {"type": "int", "low": 1, "high": 3}}), Path("a.toml")
        )
