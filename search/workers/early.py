"""What can be checked of a search before the framework is imported: names, files, columns, where the study is kept."""

from __future__ import annotations

from search.data.files import check_columns
from search.errors import DataError, ModelError, StorageError, nearest_first
from search.studyfile.checks import MLP_LOGS
from search.studyfile.references import check_reference
from search.studyfile.registry import SOURCES, check_storage, check_tracking, parted
from search.studyfile.schema import TRIAL_METRICS, Definition
from search.studyfile.secret import revealed
from search.studyfile.settings import Settings


def check(settings: Settings) -> None:
    """Refuse a search that cannot run; it takes milliseconds, and what it cannot tell the first model does.

    Raises:
        UsageError: A storage, file, function, column or metric that is asked for cannot be.
    """
    definition = settings.definition
    check_storage(settings.storage)
    if settings.tracking_uri is not None and not settings.offline:
        check_tracking(settings.tracking_uri)
    if settings.resume:
        _check_resumable(settings)
    if settings.cluster is None:  # its workers may have other modules
        _check_names(definition)
    _check_metrics(definition)
    check_columns(definition)


def _check_resumable(settings: Settings) -> None:
    from search import resume
    from search.study.create import load
    from search.study.storage import file_of

    file = file_of(revealed(settings.storage))
    if file is not None and not file.is_file():
        what = "database" if "://" in settings.storage else "journal"
        raise StorageError(f"no study to resume: there is no {what} {file}")
    resume.check_resumable(load(settings.study_name, settings.storage))


def _check_names(definition: Definition) -> None:
    for key, given in definition.references.items():
        reference, of = _spelt_out(key, given)
        if not parted(reference)[1]:  # the built-in model, or a file of data
            continue
        try:
            check_reference(reference, definition.folder, key, of)
        except ModelError as error:
            raise (DataError(str(error)) if key == "data.source" else error) from None


def _spelt_out(key: str, reference: str) -> tuple[str, str]:
    """Return a reference as Python imports it, and what its module is called where people do not know it."""
    where, name = parted(reference)
    if key == "data.source" and where in SOURCES:
        return (f"sklearn.datasets:{name}", "scikit-learn") if where == "sklearn" else ("", "")
    if key.startswith("fit.callbacks[") and not name:
        return f"keras.callbacks:{where}", "Keras"
    return reference, ""


def _check_metrics(definition: Definition) -> None:
    """Refuse a metric that the built-in model cannot log; a model, callback or fit function of the user's own may."""
    fit = definition.fit
    if definition.model.build != "mlp" or fit.callbacks or fit.function:
        return
    scheduled = ("learning_rate",) if fit.learning_rate_schedule else ()
    own = (f"val_{name}" for name in definition.own_metrics)
    known = (*MLP_LOGS, *(f"val_{name}" for name in MLP_LOGS), *own, *scheduled, *TRIAL_METRICS)
    for name in definition.metrics:
        if name not in known:
            raise definition.wrong(
                "metric",
                f"'{name}' is not among the metrics of this model",
                nearest_first(name, known, f"it logs {', '.join(known)}"),
            )
