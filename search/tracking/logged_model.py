"""A trained Keras archive as an MLflow model. This module is an MLflow flavour: see `save_model`.

The worker hands over the `.keras` file as bytes, so that the process that talks to MLflow never
imports TensorFlow (4 s) and MLflow never infers requirements (8 s a model).
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import yaml  # type: ignore[import-untyped] # MLflow's own dependency
from mlflow import MlflowClient, pyfunc
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.models.utils import _save_example
from mlflow.types.schema import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv

from search import serving
from search.comparison.predictions import FILE as PREDICTIONS
from search.data.summary import ANSWERS, DataSummary, Interface
from search.data.summary import TensorSpec as SpecOfTensor
from search.serving.meaning import Meaning
from search.tracking.user_code import UserCode, pinned

PREDICTIONS_DIGEST = "test_predictions.sha256"
DESCRIPTION = "search.json"  # what the model takes and gives
SEEN = "seen_rows.bin"  # hashes of the rows that trained or chose it
REFERENCE = "reference.json"  # what its training data looked like
_REQUIREMENTS = ("keras", "numpy", "pandas")
# What Keras does with TensorFlow on every backend.
_TENSORFLOW_LAYERS = ("TextVectorization", "StringLookup", "IntegerLookup", "Hashing", "HashedCrossing")
# Another release's loader has another name: models of both may be loaded in one process.
_SERVING = sorted(Path(serving.__file__).parent.glob("*.py"))
_DIGEST = hashlib.sha256(b"".join(file.read_bytes() for file in _SERVING)).hexdigest()
_LOADER = f"search_serving_{_DIGEST[:12]}"


def log(
    archive: bytes,
    data: DataSummary,
    *,
    name: str,
    experiment_id: str,
    run_id: str,
    step: int,
    code: UserCode,
    backend: str = "tensorflow",
    predictions: bytes | None = None,
    answers: bytes | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Log a model to a run, and return the logged model's id.

    Args:
        archive: What `keras.Model.save` wrote to a `.keras` file.
        data: What the model takes and gives.
        name: What MLflow's pages call it.
        experiment_id: The experiment of the run.
        run_id: The trial's run.
        step: Metrics of the run at this step become the model's.
        code: The user's code that the model needs when it is loaded.
        backend: The Keras backend the model was trained on.
        predictions: The model's predictions for the test rows, as `Predictions.to_bytes` writes them.
        answers: What it gives for the rows of its input example, as `Answers.to_bytes` writes them.
        params: Parameters of the logged model.
        tags: Tags of the logged model.
    """
    described = {**(tags or {}), **({} if predictions is None else {PREDICTIONS_DIGEST: digest_of(predictions)})}
    made = MlflowClient().create_logged_model(
        experiment_id, name, run_id, described, {name: str(value) for name, value in (params or {}).items()}
    )
    Model.log(
        artifact_path=None,
        flavor=sys.modules[__name__],
        model_id=made.model_id,
        run_id=run_id,
        step=step,
        archive=archive,
        data=data,
        code=code,
        backend=backend,
        predictions=predictions,
        answers=answers,
        validate_serving_input=False,  # it would import TensorFlow here; the served model is tested
    )
    return str(made.model_id)


def write(folder: Path, archive: bytes, data: DataSummary, code: UserCode, answers: bytes | None = None) -> Any:
    """Write a model into a new folder as `log` would log it, and return its input example as MLflow reads it."""
    save_model(str(folder), Model(), archive, data, code, data.backend, answers=answers)
    return Model.load(str(folder)).load_input_example(str(folder))


def digest_of(content: bytes) -> str:
    """Return what a logged model's tag `PREDICTIONS_DIGEST` says of its predictions."""
    return hashlib.sha256(content).hexdigest()


def save_model(
    path: str,
    mlflow_model: Model,
    archive: bytes,
    data: DataSummary,
    code: UserCode,
    backend: str,
    predictions: bytes | None = None,
    answers: bytes | None = None,
    validate_serving_input: bool = False,  # noqa: ARG001 - an option of MLflow's own that it passes on
) -> None:
    """Write an MLflow model with the flavours `keras` and `python_function` into a new folder."""
    folder = Path(path)
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "model.keras").write_bytes(archive)
    (folder / "data" / "keras_module.txt").write_text("keras")
    (folder / "code" / _LOADER).mkdir(parents=True)
    for file in _SERVING:
        shutil.copyfile(file, folder / "code" / _LOADER / file.name)
    code.copy_to(folder / serving.CODE)
    (folder / DESCRIPTION).write_text(json.dumps(_described(data, code.modules), default=_plain))
    (folder / SEEN).write_bytes(data.seen)
    (folder / REFERENCE).write_text(json.dumps(data.profile, default=_plain))

    mlflow_model.signature = signature(data)
    _save_example(mlflow_model, _example(data), path)
    mlflow_model.metadata = {
        "task": data.task,
        "classes": [str(label) for label in data.classes],
        **({"columns": dict(data.columns)} if data.columns else {}),
    }
    mlflow_model.add_flavor(
        "keras",
        data="data",
        keras_version=metadata.version("keras"),
        keras_backend=backend,
        save_exported_model=False,
        code="code",
    )
    pyfunc.add_to_model(
        mlflow_model, loader_module=_LOADER, code="code", conda_env="conda.yaml", python_env="python_env.yaml"
    )
    further = {"tensorflow"} if backend != "tensorflow" and _needs_tensorflow(archive, data) else set()
    needed = requirements(backend, code.packages | further)
    (folder / "requirements.txt").write_text("\n".join(needed))
    (folder / "conda.yaml").write_text(yaml.safe_dump(_mlflow_conda_env(additional_pip_deps=needed)))  # type: ignore[no-untyped-call]
    _PythonEnv.current().to_yaml(str(folder / "python_env.yaml"))  # type: ignore[no-untyped-call]
    mlflow_model.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if predictions is not None:
        (folder / PREDICTIONS).write_bytes(predictions)
    if answers is not None:
        (folder / ANSWERS).write_bytes(answers)
    mlflow_model.save(str(folder / "MLmodel"))


def requirements(backend: str = "tensorflow", packages: Iterable[str] = ()) -> list[str]:
    """Return what serving the model needs, pinned to what trained it.

    Args:
        backend: The Keras backend.
        packages: Further distributions, as the user's own code imports them.
    """
    ours = ["mlflow", backend, *_REQUIREMENTS]
    return [*(f"{name}=={metadata.version(name)}" for name in ours), *pinned(set(packages) - set(ours))]


def _needs_tensorflow(archive: bytes, data: DataSummary) -> bool:
    """Return whether a model of another backend needs TensorFlow too: it takes text, or looks values up."""
    with zipfile.ZipFile(io.BytesIO(archive)) as saved:
        config = saved.read("config.json").decode()
    text = any(np.dtype(each.dtype).kind in "OSU" for each in data.inputs) or "string" in dict(data.columns).values()
    return text or any(f'"{name}"' in config for name in _TENSORFLOW_LAYERS)


def _described(data: DataSummary, modules: Sequence[str]) -> dict[str, Any]:
    """Return what the served model knows of itself; `serving.Predictor` reads it."""
    return {
        "backend": data.backend,
        "columns": data.columns,
        "optional": data.optional,
        "reading": data.reading,
        "centers": data.centers,
        "modules": modules,
        "task": data.task,
        "classes": data.classes,
        "inputs": [asdict(each) for each in data.inputs],
        "outputs": [asdict(each) for each in data.output],
        "meanings": [asdict(each) for each in data.meanings],
        "listed": isinstance(data.example, list | tuple),
    }


def interface_of(model_id: str) -> Interface | None:
    """Return what a logged model takes and gives, without its example; None where that cannot be read."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = mlflow.artifacts.download_artifacts(f"models:/{model_id}/{DESCRIPTION}", dst_path=folder)
            known = json.loads(Path(place).read_text(encoding="utf-8"))
        inputs, outputs = (
            tuple(SpecOfTensor(each["dtype"], tuple(each["shape"]), each["name"]) for each in known[kind])
            for kind in ("inputs", "outputs")
        )
        return Interface(inputs, None, outputs, tuple(map(Meaning.of, known["meanings"])))
    except (MlflowException, OSError, KeyError, ValueError):
        return None


def _plain(value: Any) -> Any:
    """Return a class label as JSON knows it."""
    return value.item() if isinstance(value, np.generic) else str(value)


def signature(data: DataSummary) -> ModelSignature:
    """Return what the model takes: the user's raw columns, or arrays of the user's own dtype."""
    columns: list[Any] = [ColSpec(DataType[kind], name, name not in data.optional) for name, kind in data.columns]
    arrays: list[Any] = [TensorSpec(_dtype(each.dtype), each.shape, each.name) for each in data.inputs]
    outputs: list[Any] = [TensorSpec(_dtype(each.dtype), each.shape, each.name) for each in data.output]
    made = ModelSignature(
        inputs=Schema(columns or arrays),
        outputs=Schema(outputs),
        params=ParamSchema([ParamSpec("output", DataType.string, "raw")]),
    )
    # MLflow itself refuses lists, float64 for float32, nullable integers and categories; with this mark the model
    # checks and converts what it is given. The price: of JSON a server takes `inputs` alone, rows or columns by name.
    made._is_signature_from_type_hint = True  # noqa: SLF001 - MLflow has no public way
    return made


def _dtype(name: str) -> np.dtype[Any]:
    dtype = np.dtype(name)
    return np.dtype(object) if dtype.kind in "OSU" else dtype


def _example(data: DataSummary) -> Any:
    """Return rows as a person sends them: a frame, an array, or arrays by name."""
    x = data.example
    if data.columns:
        import pandas as pd

        return pd.DataFrame(x)
    if isinstance(x, list | tuple):
        x = {spec.name: each for spec, each in zip(data.inputs, x, strict=True)}
    return {name: _sendable(each) for name, each in x.items()} if isinstance(x, dict) else _sendable(x)


def _sendable(array: Any) -> Any:
    """Return text as MLflow can write it."""
    array = np.asarray(array)
    return array.astype(str) if array.dtype.kind in "OSU" else array
