"""The front door for Python: a study from a file or from objects, searched, inspected and promoted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import SearchError, UsageError
from search.promotion.conditions import Conditions
from search.study.storage import folder_of
from search.studyfile.load import find_study, load_definition, parse_definition
from search.studyfile.objects import Objects, as_text, provide, space_of
from search.studyfile.options import F, keyword, noted, with_keywords
from search.studyfile.schema import Definition
from search.studyfile.secret import read_url
from search.studyfile.settings import Settings, resolve, with_options
from search.tracking.surroundings import unchanged

if TYPE_CHECKING:
    import matplotlib.axes
    import optuna
    import pandas as pd

    from search.budget import Progress
    from search.handover.outcome import Outcome
    from search.promotion import Promotion
    from search.register import Best
    from search.reporting.side_by_side import Side
    from search.terminal import Display
    from search.tracking.history import Move
    from search.tracking.registry import Registered


def _with_conditions(function: F) -> F:
    """Give `Study.promote` the signature and the documentation of a promotion's conditions."""
    conditions = noted(Conditions)
    parameters = [keyword(name, default, annotation) for name, (annotation, default, _) in conditions.items()]
    return with_keywords(function, parameters, {name: option.help for name, (_, _, option) in conditions.items()})


class Study:
    """A study: what to search, in which data, by which model.

    Args:
        name: The name of a study file in `studies/`, or its path; with `data`, the name of a new study.
        data: Arrays `(x, y)`, parts of such, a data frame (with `target`), or a function that returns
            them. None reads the study file.
        build: `mlp`, or a function `build(trial, data)` that returns a compiled `keras.Model`.
        metric: A key of the Keras logs, or a sequence of them.
        direction: `minimize` or `maximize`, one for each metric.
        space: Optuna's distributions by name.
        enqueue: Configurations to try first.
        fit: The study file's table `[fit]`; functions and classes stand for themselves.
        metrics: The table `[metrics]`, likewise.
        search: The table `[search]`.
        storage: An Optuna storage URL, or the path of a journal; `studies/<name>.journal` when left out.
            `@path` reads the URL from a file's first line, `env:NAME` from an environment variable.
        tracking_uri: MLflow's tracking store, given likewise; the one in use when left out.
        model: Further keys of the table `[model]`, fixed arguments of the builder.
        **data_settings: Further keys of the table `[data]`, for example `target`, `test_size` or `folds`.

    Raises:
        UsageError: There is no such study file.
        StudyFileError: Something given cannot be; the message names the key.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        data: Any = None,
        build: str | Callable[..., Any] = "mlp",
        metric: str | Sequence[str] | None = None,
        direction: str | Sequence[str] | None = None,
        space: Mapping[str, Any] | None = None,
        enqueue: Sequence[Mapping[str, Any]] = (),
        fit: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        search: Mapping[str, Any] | None = None,
        storage: str | None = None,
        tracking_uri: str | None = None,
        model: Mapping[str, Any] | None = None,
        **data_settings: Any,
    ) -> None:
        self._objects = Objects()
        if data is None:
            given = [build != "mlp", metric, direction, space, enqueue, fit, metrics, search, model, data_settings]
            if any(given):
                raise UsageError(f"study '{name}': data is missing; give data, or only the name of a study file")
            beside = {} if storage is None else {"beside": folder_of(read_url(storage))}
            self._definition = load_definition(find_study(str(name), **beside))
        else:
            content: dict[str, Any] = {
                "name": str(name),
                "metric": metric if isinstance(metric, str) or metric is None else list(metric),
                "direction": direction if isinstance(direction, str) or direction is None else list(direction),
                "data": {"source": self._objects.refer_to_data(data), **data_settings},
                "model": {"build": build if isinstance(build, str) else self._objects.refer("build", build)},
                "space": space_of(space or {}, f"{name}.json"),
                "enqueue": [dict(each) for each in enqueue],
                "fit": self._objects.references_for(fit or {}, "fit"),
                "metrics": self._objects.references_for(metrics or {}, "metrics"),
                "search": dict(search or {}),
            }
            content["model"] |= self._objects.references_for(model or {}, "model")
            content = {key: value for key, value in content.items() if value not in (None, {}, [])}
            text = as_text(content, self._objects)
            self._definition = parse_definition(content, Path(f"{name}.json"), text)
        self._kept = resolve(self._definition, storage=storage, tracking_uri=tracking_uri)
        self._storage, self._tracking_uri = self._kept.storage, self._kept.tracking_uri

    @property
    def name(self) -> str:
        """The study's name: Optuna study, MLflow experiment and registered model."""
        return self._definition.name

    @property
    def definition(self) -> Definition:
        """The checked study file, or what stands for one."""
        return self._definition

    @with_options
    def optimize(
        self,
        n_trials: int | None = None,
        *,
        progress: bool | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> Result:
        """Run trials, record them in MLflow, and register the best model: what `search.run` does.

        Workers are processes of their own, which do not import the script again.

        Args:
            n_trials: Run N more trials; the study's own number when left out.
            **options: The options.
            progress: Whether to show a progress bar; by default in notebooks and on terminals.
            on_progress: Called when a trial begins or ends, and every few seconds while a long one trains.

        Raises:
            UsageError: Something asked for cannot be; nothing was created.
            NoTrialCompleted: No trial of the study is complete.
            Interrupted: Ctrl-C; what finished is kept.
        """
        if on_progress is not None and not callable(on_progress):
            raise UsageError(f"on_progress: {on_progress!r} is not a function; use a function of one argument")
        objects = self._objects.pickled() if self._objects.named else b""
        asked = {**options, "n_trials": n_trials, "storage": self._storage, "tracking_uri": self._tracking_uri}
        settings = resolve(self._definition, objects=objects, **asked)
        with unchanged():
            from search.workers import early
            from search.workers.process import start_forkserver

            early.check(settings)
            provide(settings.objects)
            if settings.cluster is None:
                start_forkserver()
            return Result(self, _run(settings, progress, on_progress), settings)

    def enqueue(self, params: Mapping[str, Any]) -> None:
        """Try a configuration next, in the running search or the next one; what it leaves out is sampled.

        Raises:
            UsageError: A value is outside the space, or no search has begun the study.
        """
        from search.study import space

        if refused := space.outside(self._definition, params):
            raise UsageError(f"study '{self.name}': {refused}")
        self.study.enqueue_trial(dict(params))

    def stop(self, trial: int | None = None, *, now: bool = False, pause: bool = False, reason: str = "") -> str:
        """End a running search, wherever it runs, or one of its trials: what `search.stop` does.

        Raises:
            UsageError: No search runs, or that trial does not.
        """
        from search import steering

        return steering.stop(self._kept, trial, now=now, pause=pause, reason=reason)

    def exclude(self, trial: int, reason: str, *, undo: bool = False) -> str:
        """Leave a trial out, so that it is shown and never counts, or take it back: what `search.exclude` does.

        Raises:
            UsageError: There is no such trial, or it has not finished.
        """
        with unchanged():
            from search import steering

            return steering.exclude(self._kept, trial, reason, undo=undo)

    @_with_conditions
    def promote(
        self,
        version: str | int | None = None,
        *,
        alias: str = "champion",
        metric: str | Sequence[str] = (),
        dry_run: bool = False,
        to: str | None = None,
        **options: Any,
    ) -> Promotion:
        """Move an alias to a version that is surely better on the test rows: what `search.promote` does.

        Args:
            version: The version; the challenger when left out.
            alias: The alias to move.
            metric: Further metrics in which the version must not be worse.
            dry_run: Whether to change nothing.
            to: Another registered model, to which the version is copied and whose alias moves.
            **options: The options.

        Returns:
            What the command's `--json` prints, as attributes; `refused` says that the version did not pass.

        Raises:
            UsageError: There is no such model, version, metric or column.
        """
        from search import promotion

        if options.get("data") is not None:
            options["data"] = Path(options["data"])
        conditions = Conditions(metrics=(metric,) if isinstance(metric, str) else tuple(metric), **options)
        number = None if version is None else str(version)
        with self.registry():
            return promotion.promote(
                self.name, version=number, alias=alias, conditions=conditions, dry_run=dry_run, to=to
            )

    def rollback(self, *, alias: str = "champion", reason: str = "") -> Promotion:
        """Give an alias back to the version that carried it before; again goes back further.

        Raises:
            RegistryError: There is no such model, or nobody carried the alias before.
        """
        from search import promotion

        with self.registry():
            return promotion.rollback(self.name, alias=alias, reason=reason)

    def history(self, *, alias: str = "champion") -> list[Move]:
        """Return who got an alias when and why, the oldest first: what `search.promote --history` lists.

        Raises:
            RegistryError: There is no registered model of this name.
        """
        from search import promotion

        with self.registry():
            return promotion.moves(self.name, alias=alias)

    @contextmanager
    def registry(self) -> Iterator[Any]:
        """Use the module `search.tracking.registry` with the study's tracking store."""
        with unchanged():
            from search.tracking import registry, store

            with store.existing_store(store.set_uri(self._tracking_uri)):
                yield registry

    def report(self, folder: str | Path | None = None) -> list[Path]:
        """Write the study's table and plots to a folder, by default `reports/<name>`, and return the files."""
        with unchanged():
            from search.reporting import address, plots

            target = Path(folder) if folder is not None else Path("reports") / self.name
            study = self.study
            target.mkdir(parents=True, exist_ok=True)
            where = address.address_of(study, self._definition, self._tracking_uri)
            return plots.write(study, self._definition, target, where)

    @property
    def study(self) -> optuna.Study:
        """The Optuna study.

        Raises:
            StorageError: No search has begun it.
        """
        with unchanged():
            from search.study.create import load

            return load(self.name, self._storage)

    def __repr__(self) -> str:
        return f"Study({self.name!r})"

    def _repr_html_(self) -> str:
        with unchanged():
            from search.reporting import notebook

            begun = None
            with suppress(SearchError):  # no search has begun it, or its storage is away
                begun = self.study
            return notebook.of_study(self._definition, str(self._storage), begun)


class Result:
    """What a search came to.

    Attributes:
        outcome: All that `search.run` prints.
    """

    def __init__(self, study: Study, outcome: Outcome, settings: Settings) -> None:
        self._study, self.outcome, self._settings = study, outcome, settings

    @property
    def best(self) -> Best:
        """The best trial: `number`, `params`, `value`, `metrics`, `run_id`; `ensemble` where several were averaged."""
        return self.outcome.best

    @property
    def model(self) -> Registered | None:
        """The registered version of the best trial: `name`, `version`, `alias`, `uri`; None when none is."""
        return self.outcome.model

    @property
    def study(self) -> optuna.Study:
        """The Optuna study, for `optuna.visualization` and whatever else."""
        return self._study.study

    @property
    def trials(self) -> pd.DataFrame:
        """Every trial of the study: number, value, parameters, metrics, state, seconds."""
        with unchanged():
            from search.reporting.table import trials_table

            return trials_table(self.study, self._study.definition)

    def load_model(self, trial: int | None = None) -> Any:
        """Return the Keras model of a trial, one of `models`; the best trial's registered one when none is named.

        Raises:
            UsageError: The best trial's model is not registered, or that trial's was not kept.
        """
        uri = getattr(self.model, "uri", "") if trial is None else self.models.get(trial, "")
        if not uri and trial is None:
            raise UsageError("the best trial's model is not registered; run with register=True")
        if not uri:
            raise UsageError(f"trial {trial}'s model was not kept; `models` lists those that were")
        with self._study.registry():
            from search.tracking.versions import load_keras

            return load_keras(uri)

    @property
    def models(self) -> dict[int, str]:
        """The URIs of the kept models by the number of their trial, the best trial first."""
        with self._study.registry():
            from search.tracking.agreement import models_of

            return models_of(self._study.definition, self.study)

    def compare(self, *others: Result) -> list[Side]:
        """Put this study and others side by side: what `search.studies --compare` does.

        Raises:
            UsageError: Metric or data differ.
        """
        with self._study.registry():
            from search.reporting.side_by_side import side_by_side

            return side_by_side([self.study, *(other.study for other in others)])

    def plot(self, name: str = "parallel_coordinate", **options: Any) -> matplotlib.axes.Axes:
        """Return one of the study's plots: what `optuna.visualization.matplotlib` calls `plot_<name>`.

        Args:
            name: For example `parallel_coordinate`, `optimization_history`, `slice`, `contour` or `timeline`.
            **options: What Optuna's function takes, for example `params`.

        Raises:
            UsageError: There is no such plot, or Optuna cannot draw it of these trials.
        """
        with unchanged():
            from search.reporting import plots

            axes: matplotlib.axes.Axes = plots.axes(self.study, self._study.definition, name, **options)
            return axes

    def __repr__(self) -> str:
        best = self.best
        return f"Result({self._study.name!r}: trial {best.number} is best, value {best.value:.6g})"

    def _repr_html_(self) -> str:
        with unchanged():
            from search.reporting import notebook

            return notebook.of_result(self.study, self._study.definition, self.outcome)


def _run(settings: Settings, progress: bool | None, on_progress: Callable[[Progress], None] | None) -> Outcome:
    from search.session import search

    display = _display(settings, shown=progress)
    if display is None:
        return search(settings, on_progress or (lambda _: None))

    def both(each: Progress) -> None:
        display.progress(each)
        if on_progress is not None:
            on_progress(each)

    with display:
        return search(settings, both, display.say)


def _display(settings: Settings, *, shown: bool | None) -> Display | None:
    """Return what shows the progress, where somebody looks on, in a notebook or at a terminal, or asked for it."""
    from search import terminal
    from search.reporting import notebook

    if shown is False or (shown is None and not notebook.is_here() and not sys.stderr.isatty()):
        return None
    if notebook.is_here():
        return terminal.NotebookDisplay(settings.definition, settings.study_name)
    return terminal.Display(settings.definition, silent=False, name=settings.study_name)


__all__ = ["Result", "SearchError", "Study"]
