"""A registered model by the name a person gives: found, brought to this machine, loaded to predict."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import os
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from search import serving
from search.comparison.seen import are_seen
from search.data import files
from search.errors import DataError, RegistryError, one_line
from search.serving.meaning import Meaning
from search.serving.rows import spelt
from search.study.attributes import read
from search.system import machine
from search.system.whole import whole
from search.tracking.logged_model import DESCRIPTION, REFERENCE, SEEN
from search.tracking.registry import Registered

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAMED = 5  # columns in a message
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")


@dataclass
class Loaded:
    """A model that predicts in this process.

    Attributes:
        pyfunc: The model as MLflow loads it.
        described: What it takes and gives, as it was logged; empty for a model that `search` did not log.
        profile: What its training data looked like; empty where that is not known.
        seen: Hashes of the rows that trained or chose it; empty where they are not known.
    """

    pyfunc: Any
    described: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    seen: bytes = b""

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of its classes; empty for anything else than one output with classes."""
        return () if self._meaning is None else tuple(map(str, self._meaning.classes))

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that hold text."""
        return tuple(name for name, kind in self.described.get("columns", ()) if kind == "string")

    @property
    def numeric(self) -> tuple[str, ...]:
        """The columns that hold numbers or truth values."""
        return tuple(name for name, kind in self.described.get("columns", ()) if kind != "string")

    @property
    def _needed(self) -> tuple[str, ...]:
        """The columns without which it does not predict."""
        optional = self.described.get("optional", ())
        return tuple(name for name in (*self.numeric, *self.texts) if name not in optional)

    @property
    def form(self) -> files.Form:
        """How files for it are written."""
        known = self.profile.get("columns", {})  # a file spells 1.0 where a column has gaps, which as a number is 1
        texts = tuple(name for name in self.texts if not _all_numbers(known.get(name, {}).get("categories", ())))
        kept = {**self.described.get("reading", {}), "texts": texts, "wanted": self._needed}
        return read(files.Form, kept, "a version's description")

    def empty(self, rows: Any) -> set[str]:
        """Return the columns that rows of a table must have values in, and have none."""
        if not self.described.get("columns") or not hasattr(rows, "columns"):
            return set()
        needed = set(self._needed)
        return {str(name) for name in rows.columns if str(name) in needed and rows[name].isna().all()}

    def without(self, columns: set[str]) -> Loaded:
        """Return the model as it takes some of a file's rows, in which these columns have no value."""
        described = {**self.described, "optional": [*self.described.get("optional", ()), *columns]}
        return replace(self, pyfunc=serving.Predictor(self.pyfunc.get_raw_model(), described), described=described)

    def prepare(self, rows: Any) -> Any:
        """Return the arrays behind these rows.

        Raises:
            DataError: A column or input is missing, of another kind or of another shape; the message names it.
        """
        try:
            return serving.Predictor(None, self.described).arrays(self._inputs(rows))
        except ValueError as error:
            raise DataError(str(error)) from None

    def as_trained(self, rows: Any) -> Any:
        """Return rows of a file as the study had them: the arrays of an NPZ file as a table's columns.

        Raises:
            DataError: An array has several values a row, which no column has.
        """
        if not self.described.get("columns") or not isinstance(rows, dict):
            return rows
        wide = next((name for name, array in rows.items() if array.ndim != 1), None)
        if wide is not None:
            names = ", ".join((*self.numeric, *self.texts)[:_NAMED])
            raise DataError(
                f"array '{wide}' has {rows[wide].ndim} dimensions; the model was trained on a table, so give an array "
                f"of one dimension for each column ({names}, …), or a CSV or Parquet file"
            )
        return files.frame(rows)

    def _inputs(self, rows: Any) -> Any:
        """Return arrays by name as the model takes them: a single one has no name."""
        specs = self.described["inputs"]
        if self.described["columns"] or len(specs) != 1 or specs[0]["name"] is not None or not isinstance(rows, dict):
            return rows
        if len(rows) != 1 and "x" not in rows:
            raise ValueError(f"the file has the arrays {', '.join(rows)}; name the model's input 'x', or keep it alone")
        return rows["x"] if "x" in rows else next(iter(rows.values()))

    def predict(self, rows: Any) -> dict[str, Any]:
        """Return arrays by name, one entry a row: label and probability (or score) of classes, else each output.

        Raises:
            DataError: The model does not take these rows.
        """
        meaning = self._meaning
        earlier = meaning is not None and "meanings" not in self.described  # such a model makes probabilities itself
        try:
            given = self.served(rows) if self.described else rows
            predicted = self.pyfunc.predict(given, params={"output": "probability"} if earlier else None)
        except (MlflowException, ValueError, TypeError, KeyError) as error:
            raise DataError(f"the model does not take these rows: {one_line(error).partition(': ')[2]}") from error
        if meaning is not None:
            output = np.asarray(predicted)
            told = {"probability": meaning.probabilities(output)} if meaning.has_probabilities else {"score": output}
            return {"label": meaning.labels(output), **told}
        if isinstance(predicted, dict):
            return {str(name): np.asarray(each) for name, each in predicted.items()}
        if hasattr(predicted, "columns"):  # a data frame, of a model that search did not log
            return {str(name): predicted[name].to_numpy() for name in predicted.columns}
        return {"prediction": np.asarray(predicted)}

    @property
    def _meaning(self) -> Meaning | None:
        """What the only output means; None where it tells no class."""
        kept = self.described.get("meanings")
        if kept is None and self.described.get("task") in ("binary", "multiclass", "multilabel"):
            kept = [{"kind": "probabilities", "task": self.described["task"], "classes": self.described["classes"]}]
        meaning = Meaning.of(kept[0]) if kept and len(self.described.get("outputs", ())) <= 1 else None
        return meaning if meaning is not None and meaning.has_classes else None

    def has_seen(self, rows: Any) -> NDArray[np.bool_] | None:
        """Return for each row whether it trained or chose the model; None where that is not known."""
        return are_seen(self.seen, self.prepare(rows)) if self.seen else None

    def served(self, rows: Any) -> Any:
        """Return rows as the model's signature names them: a frame, an array, or arrays by name."""
        if self.described["columns"]:  # without the others, which MLflow would warn of
            known = dict(self.described["columns"])
            return rows[[name for name in rows.columns if str(name) in known]]
        arrays = self.prepare(rows)
        if isinstance(arrays, list):
            arrays = {spec["name"]: each for spec, each in zip(self.described["inputs"], arrays, strict=True)}
        return arrays


def _all_numbers(categories: Collection[str]) -> bool:
    """Return whether a file's reader may take all these categories for numbers: they are spelt alike afterwards."""
    with contextlib.suppress(ValueError):
        return bool(categories) and all(spelt(float(category)) == category for category in categories)
    return False


def import_keras() -> None:
    """Import Keras without the lines that TensorFlow's libraries write to standard error as they are loaded."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with machine.quiet():
        importlib.import_module("keras")


def load_keras(uri: str) -> Any:
    """Return the Keras model of a version."""
    import_keras()
    return mlflow.pyfunc.load_model(uri).get_raw_model()


def load(model: Registered) -> Loaded:
    """Bring a model to this machine and load it.

    Raises:
        RegistryError: Its files are not there, or it cannot be loaded here.
    """
    import_keras()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=model.uri))
    except (MlflowException, OSError) as error:
        raise RegistryError(f"model {model.uri} cannot be fetched ({one_line(error)})") from error
    try:
        loaded = mlflow.pyfunc.load_model(str(folder))
    except Exception as error:  # whatever the user's own code raises when it is imported
        raise RegistryError(f"model {model.uri} cannot be loaded ({one_line(error)})") from error
    seen = (folder / SEEN).read_bytes() if (folder / SEEN).is_file() else b""
    return Loaded(loaded, _json(folder / DESCRIPTION), _json(folder / REFERENCE), seen)


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def folder_and_example(model_id: str) -> tuple[Path, Any]:
    """Return where a logged model is on this machine, fetched if need be, and its input example."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    folder = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{model_id}")
    return Path(folder), Model.load(folder).load_input_example(folder)


def export(loaded: Loaded, place: Path, kind: str) -> None:
    """Write a model in another framework's format, whole or not at all.

    Args:
        place: A file for `onnx`, a folder for `saved_model`; neither may be there as something else.
        kind: `onnx` or `saved_model`.

    Raises:
        DataError: The model cannot be exported, or not to this place.
    """
    if kind == "onnx" and importlib.util.find_spec("tf2onnx") is None:
        raise DataError("--export onnx needs tf2onnx; pip install 'search[onnx]'")
    if place.is_dir() != (kind == "saved_model") and place.exists():
        raise DataError(f"--output: {place} is there as something else; name another")
    if place.is_dir() and any(place.iterdir()):
        raise DataError(f"--output: the folder {place} is not empty; name another")
    if not place.parent.is_dir():
        raise DataError(f"--output: no folder {place.parent}")
    with whole(place) as made:
        try:
            loaded.pyfunc.predict(loaded.pyfunc.input_example)  # Keras exports what was called once
            model = loaded.pyfunc.get_raw_model()
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), _unlogged():
                warnings.simplefilter("ignore")  # Keras and its converter warn of what only they can mend
                model.export(str(made), format="onnx" if kind == "onnx" else "tf_saved_model", verbose=False)
            if kind == "onnx":
                _check_onnx(made)
        except DataError:
            raise
        except Exception as error:  # Keras and the converter raise whatever stops them
            raise DataError(f"--export {kind}: the model cannot be exported ({one_line(error)})") from error


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Silence logging: what stops a converter is told in a line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _check_onnx(file: Path) -> None:
    """See that every operation of a file is one of ONNX's: the converter leaves those of text as TensorFlow's.

    Raises:
        DataError: One is not.
    """
    import onnx

    model = onnx.load(str(file))
    known = {each.name for each in onnx.defs.get_all_schemas()}
    foreign = sorted({node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx")} - known)
    if foreign:
        raise DataError(f"--export onnx: ONNX has no operation {', '.join(foreign[:3])}; use --export saved_model")
    onnx.checker.check_model(model)
