"""A study's data set as MLflow shows one: its name, digest, schema and what the data are, without the data."""

from __future__ import annotations

import json
from typing import Any

from search.data.summary import DataSummary
from search.errors import redact


def dataset_of(data: DataSummary) -> dict[str, str]:
    """Return the data set as `mlflow.data` describes one, without the data themselves."""
    schema: dict[str, Any]
    if data.columns:
        schema = {"mlflow_colspec": [{"name": name, "type": kind, "required": False} for name, kind in data.columns]}
    else:
        inputs = [_tensor_json(spec) for spec in data.inputs]
        schema = {"mlflow_tensorspec": {"features": json.dumps(inputs), "targets": None}}
    profile = {"task": data.task, "features_shape": [list(spec.shape) for spec in data.inputs], **data.rows}
    if data.facts:
        profile["facts"] = redact(data.facts)
    return {
        "name": data.name,
        "digest": data.digest,
        "source_type": "search",
        "source": json.dumps({"uri": redact(data.source)}),
        "schema": json.dumps(schema),
        "profile": json.dumps(profile),
    }


def _tensor_json(spec: Any) -> dict[str, Any]:
    tensor = {"type": "tensor", "tensor-spec": {"dtype": spec.dtype, "shape": list(spec.shape)}}
    return {"name": spec.name, **tensor} if spec.name else tensor
