"""Whether MLflow shows what the study says: looked at trial by trial, and brought about."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from search.errors import TrackingError, UsageError
from search.study import attributes, orders, ranking, space
from search.study.comparable import comparable_trials
from search.study.files import StudyFiles
from search.studyfile.load import load_definition
from search.studyfile.schema import Definition
from search.system.retry import waited
from search.tracking import by_hand, entries, registry
from search.tracking.pages import averaged
from search.tracking.runs import ENSEMBLE, STATUS, TRIAL, SearchRun, logged_models, model_of_run, objectives

_DEFAULT_BEGAN = "1970-01-01T00:00:00+00:00"


def search_runs(definition: Definition, study: optuna.Study, files: StudyFiles | None = None) -> dict[str, SearchRun]:
    """Return the run of each of a study's searches, by the search's id; nothing is written.

    Args:
        definition: The study file.
        study: The study.
        files: Where a search that was offline keeps the study file and the code that it began with.
    """
    return {
        search_id: SearchRun(
            definition if files is None else _as_begun(definition, files.origin(search_id)),
            study.study_name,
            search_id,
            known.get("described", {}),
            known.get("dataset", {}),
            known.get("began", _DEFAULT_BEGAN),
        )
        for search_id, known in attributes.searches_of(study).items()
    }


def _as_begun(definition: Definition, origin: Path) -> Definition:
    """Return the study as a search began with it, where it was kept; else as it is now."""
    kept = sorted(origin.rglob(definition.path.name)) if origin.is_dir() else []
    with suppress(UsageError):  # a newer version reads it otherwise
        return load_definition(kept[0]) if kept else definition
    return definition


def trials_by_search(study: optuna.Study) -> dict[str, list[FrozenTrial]]:
    """Return a study's trials by the search that they belong to."""
    found: dict[str, list[FrozenTrial]] = defaultdict(list)
    for trial in study.get_trials(deepcopy=False):
        found[str(trial.system_attrs.get(attributes.SEARCH_RUN, ""))].append(trial)
    return dict(found)


def check_experiment(study: optuna.Study) -> None:
    """Refuse to write a study to MLflow whose experiment somebody deleted or renamed: all would be there twice.

    Raises:
        TrackingError: It is; the message says what mends it.
    """
    if fault := _fault(study):
        raise TrackingError(fault)


def _fault(study: optuna.Study) -> str:
    return by_hand.fault_of_experiment(MlflowClient(), study.study_name, attributes.searches_of(study))


def of_other_programs(study: optuna.Study) -> list[int]:
    """Return the trials that no search of this package trained, and that MLflow so never shows."""
    trials = trials_by_search(study).get("", [])
    return [trial.number for trial in trials if trial.state != TrialState.WAITING]


def shown_trials(run: SearchRun) -> dict[int, list[Run]]:
    """Return the runs under a search's run by the number of their trial; -1 for those of no trial."""
    found: dict[int, list[Run]] = defaultdict(list)
    for each in run.trial_runs():
        if each.data.tags.get("kind") == ENSEMBLE:
            continue
        number = each.data.tags.get(TRIAL, "")
        found[int(number) if number.isdecimal() else -1].append(each)
    return dict(found)


def differences_of_trial(definition: Definition, trial: FrozenTrial, runs: list[Run]) -> Iterator[str]:
    """Yield what a trial's runs show otherwise than the study."""
    name = f"trial {trial.number}"
    if not runs:
        yield f"{name} has no run"
        return
    if len(runs) > 1:
        yield f"{name} has {len(runs)} runs"
    run = runs[0]
    if trial.state == TrialState.RUNNING:
        if run.info.status != "RUNNING":
            yield f"{name} is running, its run is {run.info.status}"
        return
    if run.info.status != STATUS[trial.state]:
        yield f"{name} is {trial.state.name}, its run is {run.info.status}"
    params = {key: str(value) for key, value in entries.renamed(trial.params).items()}
    if run.data.params != params:
        yield f"{name} has other parameters in its run"
    shown = [run.data.metrics.get(each) for each in objectives(definition)]
    if trial.state == TrialState.COMPLETE and shown != list(trial.values):
        yield f"{name} has another value in its run"


def differences(
    definition: Definition, study: optuna.Study, waiting: Collection[int] = (), running: Collection[str] = ()
) -> list[str]:
    """Return all that MLflow shows otherwise than the study; empty when they agree.

    Args:
        waiting: Trials whose model still waits to be logged.
        running: Searches that run, and so show their trials themselves.
    """
    return list(_differences(definition, study, waiting, running))


def _differences(
    definition: Definition, study: optuna.Study, waiting: Collection[int], running: Collection[str]
) -> Iterator[str]:
    if fault := _fault(study):
        yield fault
        return
    trials, searches = trials_by_search(study), attributes.searches_of(study)
    for search_id, run in search_runs(definition, study).items():
        known = searches.get(search_id)
        if known is None or search_id in running:  # none where it began in this moment
            continue
        if not run.is_known():
            yield f"the search of {known.get('began', '')[:19]} has no run"
            continue
        shown = shown_trials(run)
        for trial in trials.get(search_id, []):
            yield from differences_of_trial(definition, trial, shown.pop(trial.number, []))
        for number, runs in shown.items():
            yield f"{len(runs)} run{'s' * (len(runs) > 1)} of trial {number}, which this search has not"
        if known["state"] != "running" and run.status() == "RUNNING":
            yield f"the search of {known.get('began', '')[:19]} is over, its run is RUNNING"
    for number in sorted(set(waiting) - {trial.number for each in running for trial in trials.get(each, [])}):
        yield f"the model of trial {number} is not logged"
    for version, _ in _excluded(definition, study):
        yield f"version {version.version} does not say which of its trials are excluded"
    yield from _twice(definition, study)
    yield from _challenger(definition, study)


def _excluded(definition: Definition, study: optuna.Study) -> Iterator[tuple[registry.Registered, str]]:
    """Yield versions that do not say which trials in them are excluded, with what they must say."""
    now = orders.excluded(study)
    runs = {run_of(definition, study, orders.trial_of(study, each)): each for each in orders.exclusions(study)}
    for version in registry.all_versions(study.study_name) if runs else ():
        ensemble = averaged.ensemble_of(version.run_id) if "ensemble" in version.tags else None
        made_of = {version.run_id, *(member.run_id for member in (ensemble.members if ensemble else ()))} - {""}
        text = "; ".join(str(now[each]) for run_id, each in runs.items() if run_id in made_of and each in now)
        if made_of & runs.keys() and version.tags.get(registry.EXCLUDED, "") != text:
            yield version, text


def _twice(definition: Definition, study: optuna.Study) -> Iterator[str]:
    """Yield configurations that were trained twice, where a configuration is all that a trial is."""
    known = space.distributions(definition)
    ended = [trial for trial in comparable_trials(study) if trial.state in ranking.FINISHED]
    if any(not trial.params.keys() <= known.keys() for trial in ended):
        return
    for configuration, times in Counter(space.configuration(trial.params) for trial in ended).items():
        if times > 1:
            yield f"the configuration {configuration} was trained {times} times"


def _challenger(definition: Definition, study: optuna.Study) -> Iterator[str]:
    """Yield that the challenger is not the best trial's version, where there are both and that one has no alias."""
    version = registry.holder(study.study_name, registry.CHALLENGER)
    ranked = ranking.leading_trials(definition, study)
    if version is None or not ranked:
        return
    own = [each for each in versions_of(definition, study, ranked[0]) if not each.refused]
    if any(not each.aliases for each in own) and version.version not in {each.version for each in own}:
        yield f"the challenger is trial {version.tags.get('trial')}, the best is trial {ranked[0].number}"


def due(
    definition: Definition, study: optuna.Study, searches: Mapping[str, SearchRun], waiting: Collection[int] = ()
) -> list[int]:
    """Return the trials of these searches that MLflow does not show as the study has them.

    Args:
        searches: The searches to look at.
        waiting: Trials whose model waits to be logged.
    """
    trials, found = trials_by_search(study), []
    for search_id, run in searches.items():
        shown = shown_trials(run) if run.is_known() else {}
        found += [
            trial.number
            for trial in trials.get(search_id, [])
            if trial.number in waiting or any(differences_of_trial(definition, trial, shown.get(trial.number, [])))
        ]
    return found


def show_excluded(definition: Definition, study: optuna.Study) -> list[str]:
    """Show which trials are excluded, on their runs and on the versions made of them; return these versions' URIs."""
    for number, given in orders.exclusions(study).items():
        run_id = run_of(definition, study, orders.trial_of(study, number))
        if run_id:
            entries.log(MlflowClient(), run_id, tags={registry.EXCLUDED: str(given[-1])})
    shown = list[str]()
    for version, text in _excluded(definition, study):
        registry.mark_excluded(version, text)
        shown.append(version.uri)
    return shown


def show_confirmed(definition: Definition, study: optuna.Study) -> None:
    """Show in MLflow what trials reached under new seeds; what is there already is left."""
    searches = search_runs(definition, study)
    confirmed = attributes.confirmed_of(study)
    for trial in study.get_trials(deepcopy=False) if confirmed else ():
        run = searches.get(str(trial.system_attrs.get(attributes.SEARCH_RUN, "")))
        if trial.number in confirmed and run is not None and run.is_known():
            run.open()
            run_id = run.find_trial(trial.number)
            if run_id:
                run.show_confirmed(run_id, trial.number, confirmed[trial.number])


def model_of(definition: Definition, study: optuna.Study, trial: FrozenTrial) -> str:
    """Return the logged model of a trial of any search; empty when there is none."""
    found = run_of(definition, study, trial)
    return model_of_run(found) if found else ""


def models_of(definition: Definition, study: optuna.Study) -> dict[int, str]:
    """Return the URIs of a study's logged models by the number of their trial, the best trial first."""
    numbers, experiments = dict[str, int](), set[str]()
    for run in search_runs(definition, study).values():
        for number, runs in (shown_trials(run) if run.is_known() else {}).items():
            numbers |= {each.info.run_id: number for each in runs}
            experiments |= {each.info.experiment_id for each in runs}
    logged = logged_models(experiments, numbers)
    ranked = ranking.leading_trials(definition, study)
    return {each.number: f"models:/{logged[each.number]}" for each in ranked if each.number in logged}


def awaited_model(
    definition: Definition, study: optuna.Study, trial: FrozenTrial, files: StudyFiles, patience: float
) -> str:
    """Return the logged model of a trial; wait while the search that trained it, another one, still has to log it.

    Args:
        files: The study's files, where models wait.
        patience: Seconds to wait at most.

    Returns:
        The model's id; empty when there is none, or not yet.
    """
    model = ""

    def settled() -> bool:
        nonlocal model
        waits = trial.number in files.waiting()  # asked first: a model is logged before its file is removed
        model = model_of(definition, study, trial)
        return bool(model) or not waits

    waited(settled, patience)
    return model


def run_of(definition: Definition, study: optuna.Study, trial: FrozenTrial) -> str:
    """Return a trial's run; empty when there is none.

    What the study says of it is not asked: the trial may have ended before MLflow showed it, or in a store that was
    lost and built anew.
    """
    run = search_runs(definition, study).get(str(trial.system_attrs.get(attributes.SEARCH_RUN, "")))
    return run.find_trial(trial.number) if run is not None and run.is_known() else ""


def versions_of(definition: Definition, study: optuna.Study, trial: FrozenTrial) -> list[registry.Registered]:
    """Return the versions that were registered for a trial, alone or averaged with others, the newest first."""
    runs = {run_of(definition, study, trial), attributes.ensemble_of(study).get("run_id")} - {"", None}
    known = registry.all_versions(study.study_name) if runs else []
    return [each for each in known if each.run_id in runs and each.tags.get("trial") == str(trial.number)]


def end_search(
    definition: Definition,
    study: optuna.Study,
    search_id: str,
    run: SearchRun,
    model: str,
    stopped: str,
    *,
    killed: bool,
) -> None:
    """Write a search's outcome to its run and end it.

    Args:
        search_id: The search.
        run: Its run, opened.
        model: The URI of the registered best model; empty when none is.
        stopped: Why it ended before its budget was spent.
        killed: Whether it was interrupted.
    """
    states = ranking.states_of(attributes.trials_of_search(study, search_id))
    metrics = {f"trials_{name}": float(states[name]) for name in ("complete", "pruned", "failed")}
    ranked = ranking.leading_trials(definition, study)
    tags = {"stopped": stopped, "model": model}
    if ranked:
        best = ranked[0]
        tags |= {"best.trial": str(best.number), "best.run_id": run_of(definition, study, best)}
        tags |= {f"best.{name}": str(value) for name, value in best.params.items()}
        metrics |= {f"best_{metric}": value for metric, value in zip(definition.metrics, best.values, strict=True)}
    else:
        tags["reason"] = "no trial completed"
    ended = "Interrupted" if killed else "Finished" if ranked else "Failed: no trial completed"
    run.describe(study, f"**{ended}**{f' ({stopped})' if stopped else ''}.", pictures=True)
    run.end("KILLED" if killed else "FINISHED" if ranked else "FAILED", metrics, tags)
