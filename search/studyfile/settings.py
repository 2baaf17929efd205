"""One call of `search.run`, resolved: the study file with the flags that were given instead of its defaults."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

from search.errors import UsageError
from search.studyfile.checks import wrong_name
from search.studyfile.load import find_study
from search.studyfile.schema import Definition
from search.studyfile.secret import SecretUrl, read_url


@dataclass(frozen=True)
class Settings:
    """What one search is asked to do; every default is filled in.

    Attributes:
        definition: The study file.
        study_name: Study, MLflow experiment and registered model.
        storage: A database URL, `grpc://host:port`, or the path of a journal.
        tracking_uri: MLflow's tracking store; None for MLflow's own choice.
        n_trials: How many trials to run.
        timeout: Seconds after which no trial starts; None for no limit.
        trial_timeout: Seconds after which a trial is stopped and counts as failed; None for no limit.
        workers: How many trials at a time, or `auto`.
        cluster: Address of a dask scheduler; None to train on this machine.
        gpu_share: The share of a GPU that one worker uses, in (0, 1].
        resume: Finish the newest interrupted search instead of running more trials.
        register: Whether the best trial's model becomes a version in the registry.
        offline: Whether MLflow is left alone; `search.sync` writes to it later.
        accept_new_data: Whether the data or the split may differ from those of the study's earlier trials.
        confirm: Share of the training time to spend on training the leading trials again.
        objects: What `object:<name>` in the definition stands for, pickled.
    """

    definition: Definition
    study_name: str
    storage: SecretUrl
    tracking_uri: SecretUrl | None
    n_trials: int
    timeout: float | None
    trial_timeout: float | None
    workers: int | str
    cluster: str | None
    gpu_share: float
    sampler: str
    pruner: str
    seed: int
    resume: bool
    register: bool
    offline: bool
    accept_new_data: bool = False
    confirm: float = 0.0
    objects: bytes = field(default=b"", repr=False)

    def located(self) -> Settings:
        """Return the settings as a process in another working directory can use them: no relative path."""
        return self if "://" in self.storage else replace(self, storage=SecretUrl(str(Path(self.storage).absolute())))


def default_storage(name: str) -> str:
    """Return the journal that a study is kept in unless the user says otherwise."""
    return f"studies/{name}.journal"


def arguments_of(settings: Settings) -> str:
    """Return what names a study on a command line: the file, and what differs from its defaults."""
    definition = settings.definition
    path, name = definition.path, definition.name
    try:
        by_name = find_study(path.stem).resolve() == path.resolve()
    except UsageError:
        by_name = False
    words = [path.stem if by_name else str(path)] if path.name else [name]
    if settings.study_name != name:
        words += ["--study-name", settings.study_name]
    if settings.storage != default_storage(settings.study_name):
        words += ["--storage", settings.storage.given]
    if settings.tracking_uri is not None:
        words += ["--tracking-uri", settings.tracking_uri.given]
    return shlex.join(words)


def resolve(
    definition: Definition,
    *,
    n_trials: int | None = None,
    timeout: float | None = None,
    trial_timeout: float | None = None,
    workers: int | str | None = None,
    cluster: str | None = None,
    gpu_share: float = 1.0,
    study_name: str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    seed: int | None = None,
    resume: bool = False,
    register: bool = True,
    offline: bool = False,
    accept_new_data: bool = False,
    confirm: float | None = None,
    objects: bytes = b"",
) -> Settings:
    """Return the settings of a search; None leaves a setting to the study file.

    Raises:
        UsageError: The study's name is not one.
    """
    wrong = wrong_name(study_name) if study_name is not None else None
    if wrong is not None:
        raise UsageError(f"--study-name: {'; '.join(wrong)}")
    search, name = definition.search, study_name or definition.name
    return Settings(
        definition=definition,
        study_name=name,
        storage=read_url(storage or default_storage(name), "--storage"),
        tracking_uri=None if tracking_uri is None else read_url(tracking_uri, "--tracking-uri"),
        n_trials=search.n_trials if n_trials is None else n_trials,
        timeout=search.timeout if timeout is None else timeout,
        trial_timeout=search.trial_timeout if trial_timeout is None else trial_timeout,
        workers=search.workers if workers is None else workers,
        cluster=cluster,
        gpu_share=gpu_share,
        sampler=sampler or search.sampler,
        pruner=pruner or search.pruner,
        seed=search.seed if seed is None else seed,
        resume=resume,
        register=register,
        offline=offline,
        accept_new_data=accept_new_data,
        confirm=search.confirm if confirm is None else confirm,
        objects=objects,
    )


def described(settings: Settings, workers: int) -> dict[str, str]:
    """Return a search's settings as its run's parameters."""
    definition = settings.definition
    described = {
        "n_trials": settings.n_trials,
        "timeout": settings.timeout,
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "seed": settings.seed,
        "workers": workers,
        "metric": ", ".join(definition.metrics),
        "direction": ", ".join(definition.directions),
        "storage": str(settings.storage),
    }
    return {name: str(value) for name, value in described.items() if value is not None}
