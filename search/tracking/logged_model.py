"""A trained Keras archive as an MLflow model. This module is an MLflow flavour: see `save_model`.

The worker hands over the `.keras` file as bytes, so that the process that talks to MLflow never
imports TensorFlow (4 s) and MLflow never infers requirements (8 s a model).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml  # type: ignore[import-untyped] # MLflow's own dependency
from mlflow import pyfunc
from mlflow.models import Model, ModelSignature
from mlflow.models.utils import _save_example
from mlflow.types.schema import ColSpec, DataType, Schema, TensorSpec
from mlflow.utils.environment import _mlflow_conda_env, _PythonEnv

from search.data.summary import DataSummary
from search.tracking import serving

_REQUIREMENTS = ("tensorflow", "keras", "numpy", "pandas")
_LOADER = "search_serving"


def log(
    archive: bytes,
    data: DataSummary,
    *,
    run_id: str,
    step: int,
    user_files: Sequence[Path],
    backend: str = "tensorflow",
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Log a model to a run, and return the logged model's id.

    Args:
        archive: What `keras.Model.save` wrote to a `.keras` file.
        data: What the model takes and gives.
        run_id: The trial's run.
        step: Metrics of the run at this step become the model's.
        user_files: The user's Python files, needed to load custom layers, losses and models.
        backend: The Keras backend the model was trained on.
        params: Further parameters of the logged model.
        tags: Tags of the logged model.
    """
    info = Model.log(
        artifact_path=None,
        name="model",
        flavor=sys.modules[__name__],
        flavor_name="keras",
        run_id=run_id,
        step=step,
        params=dict(params or {}),
        tags=dict(tags or {}),
        archive=archive,
        data=data,
        user_files=user_files,
        backend=backend,
        validate_serving_input=False,  # it would import TensorFlow here; the served model is tested
    )
    return str(info.model_id)


def save_model(
    path: str,
    mlflow_model: Model,
    archive: bytes,
    data: DataSummary,
    user_files: Sequence[Path],
    backend: str,
    validate_serving_input: bool = False,  # noqa: ARG001 - an option of MLflow's own that it passes on
) -> None:
    """Write an MLflow model with the flavours `keras` and `python_function` into a new folder."""
    folder = Path(path)
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "model.keras").write_bytes(archive)
    (folder / "data" / "keras_module.txt").write_text("keras")
    (folder / "code").mkdir()
    shutil.copyfile(serving.__file__, folder / "code" / f"{_LOADER}.py")
    for file in user_files:
        shutil.copyfile(file, folder / "code" / file.name)
    described = {"columns": data.columns, "modules": [file.stem for file in user_files], "classes": data.classes}
    (folder / "search.json").write_text(json.dumps(described, default=str))

    mlflow_model.signature = signature(data)
    _save_example(mlflow_model, _example(data), path)
    mlflow_model.metadata = {"task": data.task, "classes": [str(label) for label in data.classes]}
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
    pinned = requirements(backend)
    (folder / "requirements.txt").write_text("\n".join(pinned))
    (folder / "conda.yaml").write_text(yaml.safe_dump(_mlflow_conda_env(additional_pip_deps=pinned)))  # type: ignore[no-untyped-call]
    _PythonEnv.current().to_yaml(str(folder / "python_env.yaml"))  # type: ignore[no-untyped-call]
    mlflow_model.model_size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    mlflow_model.save(str(folder / "MLmodel"))


def requirements(backend: str = "tensorflow") -> list[str]:
    """Return what serving the model needs, pinned to what trained it."""
    packages = [*_REQUIREMENTS, *(["jax"] if backend == "jax" else [])]
    return [f"mlflow=={metadata.version('mlflow')}", *(f"{name}=={metadata.version(name)}" for name in packages)]


def signature(data: DataSummary) -> ModelSignature:
    """Return what the model takes: the user's raw columns, or arrays of the user's own dtype."""
    columns: list[Any] = [ColSpec(DataType[kind], name, required=False) for name, kind in data.columns]
    arrays: list[Any] = [TensorSpec(np.dtype(each.dtype), each.shape, each.name) for each in data.inputs]
    outputs: list[Any] = [TensorSpec(np.dtype(each.dtype), each.shape, each.name) for each in data.output]
    return ModelSignature(inputs=Schema(columns or arrays), outputs=Schema(outputs))


def _example(data: DataSummary) -> Any:
    if not data.columns:
        return data.example
    import pandas as pd

    return pd.DataFrame(data.example)
