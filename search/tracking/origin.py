"""What a search came from, kept with its run so that MLflow alone can rebuild it.

Artifacts of the search's run under `origin/`: the study file and the files that it names, the
versions and the processor, and the uncommitted changes of the working tree.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from search.errors import RegistryError, TrackingError, redact
from search.studyfile.schema import Definition

FOLDER = "origin"
_FILES, _DESCRIPTION, _PATCH = "files", "origin.json", "uncommitted.patch"
_LARGEST_FILE = 50_000_000  # bytes of a data file that is kept with the search
_LARGEST_PATCH = 1_000_000  # bytes
_PACKAGES = ("search", "tensorflow", "keras", "numpy", "optuna", "optuna-integration", "mlflow", "scikit-learn")


@dataclass(frozen=True)
class Origin:
    """What a recorded trial was trained from.

    Attributes:
        run_id: The trial's run.
        study_file: The rebuilt study file; None when the search kept none.
        versions: The version of Python and of each package.
        processor: The processor's model name.
        digest: Digest of the data.
        trial: `number`, `params`, `seed` of the study and `threads`, as the trial recorded them.
        metrics: The recorded values of each metric by step.
        final: The last recorded value of each metric.
        state: The trial's state: `COMPLETE`, `PRUNED` or `FAIL`.
        missing: Files of the study that were too large to be kept.
    """

    run_id: str
    study_file: Path | None
    versions: dict[str, str]
    processor: str
    digest: str
    trial: dict[str, Any]
    metrics: dict[str, dict[int, float]]
    final: dict[str, float]
    state: str
    missing: tuple[str, ...]


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def processor() -> str:
    """Return the processor's model name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git(*arguments: str) -> str | None:
    """Return what git says in the working directory; None where there is no repository or no git."""
    with suppress(OSError, subprocess.SubprocessError, UnicodeDecodeError):
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout
    return None


def log(client: MlflowClient, run_id: str, definition: Definition, files: Mapping[str, Path], study_file: str) -> None:
    """Keep with a search's run what it is made of.

    Args:
        client: MLflow's client.
        run_id: The search's run.
        definition: The study file.
        files: The files that the study needs, by their path below a common folder.
        study_file: The study file's own path below that folder.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        missing = list(_copied(files, folder / _FILES))
        copy = folder / _FILES / study_file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(redact(definition.text), encoding="utf-8")
        described = {
            "study_file": study_file,
            "versions": versions(),
            "processor": processor(),
            "commit": (git("rev-parse", "HEAD") or "").strip(),
            "missing": missing,
        }
        (folder / _DESCRIPTION).write_text(json.dumps(described, indent=2), encoding="utf-8")
        patch = git("diff", "HEAD")
        if patch and len(patch) <= _LARGEST_PATCH:
            (folder / _PATCH).write_text(redact(patch), encoding="utf-8")
        client.log_artifacts(run_id, name, FOLDER)


def _copied(files: Mapping[str, Path], folder: Path) -> Iterator[str]:
    """Copy files into a folder, and yield the names of those that are too large to be kept."""
    for name, path in files.items():
        if path.stat().st_size > _LARGEST_FILE:
            yield name
            continue
        copy = folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())


def read(reference: str, folder: Path) -> Origin:
    """Rebuild the files that a recorded trial was trained from.

    Args:
        reference: A trial's run id, or `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        folder: An empty folder, which receives the files.

    Raises:
        RegistryError: There is no such model version.
        TrackingError: There is no such run, it is not a trial's, or its search kept nothing.
    """
    client = MlflowClient()
    run = _run(client, _run_id(client, reference))
    search = _search_of(client, run)
    described = _downloaded(search.info.run_id, folder)
    trial = _trial_record(run.info.run_id)
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return Origin(
        run_id=run.info.run_id,
        study_file=folder / FOLDER / _FILES / described["study_file"],
        versions=dict(described["versions"]),
        processor=str(described["processor"]),
        digest=inputs[0].dataset.digest if inputs else "",
        trial=trial,
        metrics={name: _history(client, run.info.run_id, name) for name in run.data.metrics},
        final=dict(run.data.metrics),
        state=run.data.tags.get("state", ""),
        missing=tuple(described["missing"]),
    )


def _run_id(client: MlflowClient, reference: str) -> str:
    if not reference.startswith("models:/"):
        return reference
    name, _, alias = reference.removeprefix("models:/").partition("@")
    try:
        if alias:
            return str(client.get_model_version_by_alias(name, alias).run_id)
        name, _, version = name.rpartition("/")
        return str(client.get_model_version(name, version).run_id)
    except MlflowException:
        raise RegistryError(f"no model version {reference}; give models:/NAME@ALIAS or models:/NAME/VERSION") from None


def _run(client: MlflowClient, run_id: str) -> Run:
    try:
        return client.get_run(run_id)
    except MlflowException:
        raise TrackingError(
            f"no run '{run_id}' in {redact(mlflow.get_tracking_uri())}; give a trial's run id, or models:/NAME@ALIAS"
        ) from None


def _search_of(client: MlflowClient, run: Run) -> Run:
    """Return the search's run above a trial's, or above a confirmation's."""
    found = run
    while found.data.tags.get("kind") != "search":
        parent = found.data.tags.get("mlflow.parentRunId")
        if parent is None:
            raise TrackingError(f"run {run.info.run_id} belongs to no search of this tool; give a trial's run id")
        found = _run(client, parent)
    if found is run:
        raise TrackingError(f"run {run.info.run_id} is a search, not a trial; give the run id of one of its trials")
    return found


def _downloaded(run_id: str, folder: Path) -> dict[str, Any]:
    """Download a search's origin into a folder, and return its description."""
    try:
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=FOLDER, dst_path=str(folder))
        described: dict[str, Any] = json.loads((folder / FOLDER / _DESCRIPTION).read_text(encoding="utf-8"))
    except (MlflowException, OSError):
        raise TrackingError(
            f"the search's run {run_id} has no artifact '{FOLDER}'; only searches of this version can be reproduced"
        ) from None
    return described


def _trial_record(run_id: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="training.json", dst_path=folder)
            return dict(json.loads(Path(path).read_text(encoding="utf-8"))["trial"])
        except (MlflowException, OSError, KeyError):
            raise TrackingError(
                f"run {run_id} has no record of its parameters (training.json); it failed before its model was built"
            ) from None


def _history(client: MlflowClient, run_id: str, name: str) -> dict[int, float]:
    return {each.step: float(each.value) for each in client.get_metric_history(run_id, name)}


def common_layout(files: set[Path], study_file: Path) -> tuple[dict[str, Path], str]:
    """Return files by their path below their common folder, and the study file's own such path."""
    resolved = {Path(os.path.normpath(each.absolute())) for each in {*files, study_file}}
    study = Path(os.path.normpath(study_file.absolute()))
    root = Path(os.path.commonpath([each.parent for each in resolved]))
    named = {each.relative_to(root).as_posix(): each for each in resolved if each != study}
    return named, study.relative_to(root).as_posix()
