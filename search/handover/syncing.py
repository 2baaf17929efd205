"""Makes MLflow agree with a study after the fact: trials, models, searches, and the registered best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import optuna

from search import resume
from search.errors import TrackingError, UsageError
from search.figures import plural
from search.handover.averaging import registered
from search.register import best_of, register_best
from search.study import attributes, create, ranking
from search.study.files import StudyFiles
from search.studyfile.schema import Definition
from search.studyfile.settings import Settings
from search.workers.fresh import FreshProcess

_PATIENCE = 60.0  # seconds without progress after which MLflow counts as away


@dataclass(frozen=True)
class Synced:
    """The result of a sync.

    Attributes:
        checked: How many trials were looked at.
        mended: How many of them were written.
        differs: What still differs.
        no_run: The trials of other programs, which have no run in MLflow.
    """

    study: str
    checked: int
    mended: int
    differs: tuple[str, ...]
    no_run: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {
            "study": self.study,
            "checked": self.checked,
            "mended": self.mended,
            "differs": list(self.differs),
            "no_run": list(self.no_run),
        }


def sync(
    settings: Settings, on_message: Callable[[str], None], *, only_check: bool = False, moved_from: str | None = None
) -> Synced:
    """Write to MLflow what the study says and MLflow does not show.

    Args:
        settings: Names the study, its storage and the tracking store.
        on_message: Called with a line for the person.
        only_check: Look and write nothing.
        moved_from: Where the project's folder was, whose paths MLflow's store still names.

    Raises:
        StorageError: There is no such study.
        TrackingError: MLflow's store cannot be used, or went away.
    """
    from search.tracking import agreement, store

    if moved_from is not None:
        if only_check:
            raise UsageError("--check with --moved-from; --check writes nothing; leave one of the two out")
        store.rewrite_moved(store.set_uri(settings.tracking_uri), moved_from, on_message)
    study, storage = create.load_with_storage(settings.study_name, settings.storage)
    definition, files = settings.definition, StudyFiles(study, settings)
    checked = len(study.get_trials(deepcopy=False))
    uri = store.set_uri(settings.tracking_uri)
    others = tuple(agreement.of_other_programs(study))
    if only_check:
        with store.existing_store(uri):
            differs = agreement.differences(definition, study, files.waiting(), _running(study, files))
        return Synced(settings.study_name, checked, 0, tuple(differs), others)
    with store.mirrored(), store.fresh_store(uri) as publish, store.store_errors(uri):
        publish()
        agreement.check_experiment(study)
        resume.recover_killed_searches(study, storage, files)
        mended = _send(definition, study, storage, files, on_message)
        agreement.show_confirmed(definition, study)
        agreement.show_excluded(definition, study)
        _register(settings, study, files)
        _end_searches(definition, study, files)
        differs = agreement.differences(definition, study, files.waiting(), _running(study, files))
    return Synced(settings.study_name, checked, mended, tuple(differs), others)


def _send(
    definition: Definition, study: optuna.Study, storage: Any, files: StudyFiles, on_message: Callable[[str], None]
) -> int:
    """Write every trial that MLflow does not show as the study has it, and return how many."""
    from search.tracking import agreement
    from search.tracking.mirror import Mirror

    running, every = _running(study, files), agreement.search_runs(definition, study, files)
    searches = {search_id: run for search_id, run in every.items() if search_id not in running}
    for run in searches.values():
        run.open()
    due = agreement.due(definition, study, searches, files.waiting())
    mirror = Mirror(study, storage, definition, searches, files, on_message)
    for number in due:
        mirror.update(number)
    left = mirror.outbox.drain(_PATIENCE).numbers
    mirror.close()
    if left:
        raise TrackingError(
            f"{plural(len(left), 'trial')} could not be written to MLflow; run python -m search.sync again later"
        )
    return len(due)


def _running(study: optuna.Study, files: StudyFiles) -> set[str]:
    """Return the searches that run, and so show their trials themselves."""
    records = [record for record in resume.search_records(study) if record.state == "running"]
    return {record.search_id for record in records if resume.alive(record, files) is not False}


def _register(settings: Settings, study: optuna.Study, files: StudyFiles) -> None:
    """Register the best trial's model, or what was averaged, where a search that owes it kept what the data are."""
    from search.tracking import agreement

    definition = settings.definition
    ranked = ranking.leading_trials(definition, study)
    records = resume.search_records(study)
    owed = [record for record in records if record.state in resume.UNFINISHED and record.registers]
    data = next(
        (kept for kept in (files.data(record.search_id) for record in reversed(owed)) if kept is not None), None
    )
    if not ranked or data is None:
        return
    model_id = agreement.model_of(definition, study, ranked[0])
    run_id = agreement.run_of(definition, study, ranked[0])
    confirmed = attributes.confirmed_of(study).get(ranked[0].number)
    if model_id:
        with FreshProcess() as fresh:
            best = best_of(definition, ranked[0], run_id, confirmed, attributes.trivial_of(study, ranked[0]))
            best = replace(best, ensemble=registered(study, best.number))
            register_best(settings.study_name, definition, ranked[0], best, data, model_id, fresh.begin_check(model_id))


def _end_searches(definition: Definition, study: optuna.Study, files: StudyFiles) -> None:
    """End the runs of searches that are over, and note those that owed only this as finished."""
    from search.tracking import agreement

    searches = agreement.search_runs(definition, study)
    for record in resume.search_records(study):
        run = searches.get(record.search_id)  # none where it began in this moment
        if run is None or record.state == "running" or not run.is_known():
            continue
        if run.status() == "RUNNING" or record.state == "trained":
            killed = record.state == "interrupted"
            agreement.end_search(definition, study, record.search_id, run, "", record.stopped, killed=killed)
        if record.state == "trained":
            replace(record, state="finished").write(study)
        if record.state != "interrupted":
            files.forget(record.search_id)
