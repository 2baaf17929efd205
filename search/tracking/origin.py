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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from search.errors import UsageError, redact
from search.studyfile.schema import Definition
from search.tracking.user_code import keep

FOLDER = "origin"
_FILES, _DESCRIPTION, _PATCH = "files", "origin.json", "uncommitted.patch"
PARAMETER_NAMES = "parameter_names"  # a trial's tag: the parameters that have another name in MLflow
_LARGEST_PATCH = 1_000_000  # bytes
_PACKAGES = ("search", "tensorflow", "keras", "numpy", "optuna", "optuna-integration", "mlflow", "scikit-learn")


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


def log(client: MlflowClient, run_id: str, definition: Definition) -> None:
    """Keep with a search's run what it is made of."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study_file, missing = keep(definition, folder / _FILES)
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


@dataclass(frozen=True)
class Recorded:
    """A trial as MLflow has it.

    Attributes:
        run_id: Its run.
        number: Its number in the study.
        params: Its parameters, as text.
        seed: The seed of its search.
        workers: How many trials its search trained at a time.
        status: `FINISHED`, `KILLED` (pruned) or `FAILED`.
        digest: The digest of its data; empty where it is not known.
        metrics: Each metric's values by step.
        search_run: The run of its search, which keeps the origin.
        ensemble: How many trainings its search could average.
    """

    run_id: str
    number: int
    params: dict[str, str]
    seed: int
    workers: int
    status: str
    digest: str
    metrics: dict[str, dict[int, float]]
    search_run: str
    ensemble: int = 0


def recorded(run_id: str) -> Recorded:
    """Return what MLflow has of a trial.

    Raises:
        UsageError: There is no such run, or it is no trial's that trained.
    """
    client = MlflowClient()
    try:
        run = client.get_run(run_id)
    except MlflowException:
        raise UsageError(f"no run '{run_id}' in MLflow; name a trial's run, or models:/NAME@champion") from None
    tags = run.data.tags
    above, number = tags.get(MLFLOW_PARENT_RUN_ID, ""), tags.get("trial", "")
    if not above or not number.isdecimal():
        raise UsageError(f"run '{run_id}' is not a trial's; name the run of a trial")
    if not run.data.metrics:
        raise UsageError(f"run '{run_id}' (trial {number}) has no metrics to compare; it was {run.info.status}")
    settings = client.get_run(above).data.params
    names = json.loads(tags.get(PARAMETER_NAMES, "{}"))
    datasets = run.inputs.dataset_inputs if run.inputs else []
    return Recorded(
        run_id=run_id,
        number=int(number),
        params={names.get(shown, shown): value for shown, value in run.data.params.items()},
        seed=int(settings.get("seed", 0)),
        workers=int(settings.get("workers", 1)),
        status=run.info.status,
        digest=datasets[0].dataset.digest if datasets else "",
        metrics={
            name: {each.step: each.value for each in client.get_metric_history(run_id, name)}
            for name in sorted(run.data.metrics)
        },
        search_run=above,
        ensemble=int(settings.get("ensemble", 0)),
    )


@dataclass(frozen=True)
class Origin:
    """What a search is made of, brought back into a folder.

    Attributes:
        study_file: The study file.
        versions: The versions of Python and of packages.
        processor: The processor's model name.
        commit: The commit of the working tree; empty where there was none.
        missing: Files that were too large to be kept.
    """

    study_file: Path
    versions: dict[str, str]
    processor: str
    commit: str
    missing: tuple[str, ...]


def fetch(search_run: str, folder: Path) -> Origin:
    """Bring the files that a search was made of into a folder.

    Raises:
        UsageError: The run keeps none: an earlier release made it.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    try:
        place = Path(mlflow.artifacts.download_artifacts(run_id=search_run, artifact_path=FOLDER, dst_path=str(folder)))
        known: dict[str, Any] = json.loads((place / _DESCRIPTION).read_text(encoding="utf-8"))
    except (MlflowException, OSError):
        raise UsageError(f"run '{search_run}' keeps no {FOLDER}/{_DESCRIPTION}, so it cannot be rebuilt") from None
    return Origin(
        study_file=place / _FILES / known["study_file"],
        versions=known["versions"],
        processor=known["processor"],
        commit=known["commit"],
        missing=tuple(known["missing"]),
    )


def changed(origin: Origin) -> list[str]:
    """Return how this machine and code differ from those of a search."""
    now = versions()
    differs = [
        f"{name} {before or 'was not installed'}, now {now.get(name, 'not installed')}"
        for name, before in origin.versions.items()
        if now.get(name) != before
    ]
    if (cpu := processor()) != origin.processor:
        differs.append(f"processor {origin.processor}, now {cpu}")
    commit = (git("rev-parse", "HEAD") or "").strip()
    if origin.commit and commit and commit != origin.commit:
        differs.append(f"code of commit {origin.commit[:12]}, now {commit[:12]}")
    return differs


@contextmanager
def unrecorded(folder: Path) -> Iterator[None]:
    """Send what the user's code logs to MLflow to a folder that is thrown away."""
    kept = {name: os.environ.pop(name, None) for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")}
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/thrown-away.db")
    try:
        yield
    finally:
        while mlflow.active_run() is not None:
            mlflow.end_run()
        mlflow.set_tracking_uri(before)
        os.environ.update({name: value for name, value in kept.items() if value is not None})
