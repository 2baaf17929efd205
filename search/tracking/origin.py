"""What a search came from, kept with its run so that MLflow alone can rebuild it.

Artifacts of the search's run under `origin/`: the study file and the files that it names, the
versions and the processor, and the uncommitted changes of the working tree.
"""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from mlflow import MlflowClient

from search.errors import redact
from search.studyfile.schema import Definition

FOLDER = "origin"
_FILES, _DESCRIPTION, _PATCH = "files", "origin.json", "uncommitted.patch"
_LARGEST_FILE = 50_000_000  # bytes of a data file that is kept with the search
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
