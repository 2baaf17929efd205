"""What a person asks of a study from elsewhere: end a search or a trial, leave a trial out."""

from __future__ import annotations

from search import resume
from search.errors import TrackingError, UsageError, one_line
from search.study import create, orders
from search.study.files import StudyFiles
from search.study.orders import Order
from search.studyfile.settings import Settings


def stop(
    settings: Settings, number: int | None = None, *, now: bool = False, pause: bool = False, reason: str = ""
) -> str:
    """Ask the running searches of a study, or one of its trials, to end; return what will happen, in a sentence.

    Raises:
        StorageError: There is no such study.
        UsageError: No search runs, or that trial does not.
    """
    study, storage = create.load_with_storage(settings.study_name, settings.storage)
    order = Order("pause" if pause else "stop", now=now, reason=reason)
    when = "at once" if order.now else "at its next epoch"
    if number is not None:
        orders.give_to_trial(study, storage, number, order)
        return f"trial {number} of study '{study.study_name}' ends {when}"
    files = StudyFiles(study, settings)
    records = resume.search_records(study)
    running = [each for each in records if each.state == "running" and resume.alive(each, files) is not False]
    if not running:
        raise UsageError(f"study '{study.study_name}': no search runs")
    for record in running:
        orders.give_to_search(study, record.search_id, order)
    where = ", ".join(f"process {each.pid} on {each.host}" for each in running)
    trials = "are ended at once" if order.now else "finish first"
    then = "python -m search.run --resume goes on" if order.kind == "pause" else "then the best is registered"
    return f"the search of study '{study.study_name}' ({where}) ends; running trials {trials}; {then}"


def exclude(settings: Settings, number: int, reason: str = "", *, undo: bool = False) -> str:
    """Leave a trial of a study out, or take it back; return what that changed, in a sentence.

    Raises:
        StorageError: There is no such study.
        UsageError: There is no such trial, or it has not finished.
    """
    study = create.load(settings.study_name, settings.storage)
    changed = orders.exclude(study, number, Order("include" if undo else "exclude", reason=reason))
    state = "included" if undo else "excluded"
    told = f"trial {number} of study '{study.study_name}' is {state}{'' if changed else ' already'}"
    try:
        from search.tracking import agreement, store

        with store.existing_store(store.set_uri(settings.tracking_uri)):
            versions = agreement.show_excluded(settings.definition, study)
    except TrackingError as error:
        return f"{told}; MLflow does not show it: {one_line(error)}; python -m search.sync does later"
    return "; ".join([told, *(f"{uri} says so" for uri in versions)])
