"""One call of `search.run`, resolved: the study file with the options that were given instead of its defaults."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, ValidationError

from search.errors import UsageError, did_you_mean
from search.studyfile import messages
from search.studyfile.load import MADE, find_study
from search.studyfile.options import F, Option, SearchOptions, keyword, with_keywords
from search.studyfile.parameters import StudyName, written
from search.studyfile.schema import Definition
from search.studyfile.secret import SecretUrl, read_url, revealed


def _url(given: object) -> SecretUrl:
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise ValueError(f"{written(given)}; use a URL or a path")
    return read_url(given)


Url = Annotated[SecretUrl, PlainValidator(_url)]


class Settings(SearchOptions):
    """What one search is asked to do; every default is filled in.

    Attributes:
        definition: The study file.
        objects: What `object:<name>` in the definition stands for, pickled.
    """

    definition: Definition
    study_name: Annotated[
        StudyName,
        Option("Name of study, experiment and registered model.", "NAME", "the file's", everywhere=True),
    ]
    storage: Annotated[
        Url,
        Option(
            "Optuna storage URL, grpc://host:port, or the path of a journal; @FILE and env:NAME hide a password.",
            "URL|@FILE|env:NAME",
            "studies/NAME.journal",
            everywhere=True,
        ),
    ]
    tracking_uri: Annotated[
        Url | None,
        Option(
            "MLflow tracking store; @FILE and env:NAME hide a password.",
            "URI|@FILE|env:NAME",
            "MLflow's own",
            everywhere=True,
        ),
    ] = None
    cluster: Annotated[
        str | None, Field(min_length=1), Option("Train on this dask scheduler's workers.", "ADDRESS")
    ] = None
    gpu_share: Annotated[
        float, Field(gt=0, le=1), Option("Share of a GPU that one worker uses; 0.5 puts two on each.", "SHARE")
    ] = 1.0
    accept_new_data: Annotated[
        bool, Option("Continue although rows or split changed; earlier trials are not compared.")
    ] = False
    accept_new_code: Annotated[
        bool, Option("Continue although code, [model] or [fit] changed; earlier trials are not compared.")
    ] = False
    resume: Annotated[bool, Option("Run only the trials an interrupted search still owes.")] = False
    state: Annotated[
        str | None,
        Field(min_length=1),
        Option("Keep models and checkpoints that wait in this folder.", "DIR", "beside the journal, or in studies/"),
    ] = None
    offline: Annotated[bool, Option("Do not write to MLflow now; python -m search.sync does it later.")] = False
    registers: Annotated[bool, Field(alias="register"), Option("Register no model.", flags=("--no-register",))] = True
    objects: bytes = Field(default=b"", repr=False)

    @property
    def models_kept(self) -> int:
        """Of how many of the best trials the models are kept: twice as many as may be averaged are candidates."""
        return max(self.definition.search.keep, 2 * self.ensemble if self.ensemble > 1 else 0)

    def located(self) -> Settings:
        """Return the settings as a process in another working directory can use them: no relative path."""
        kind, mark, path = revealed(self.storage).rpartition(":///")
        if "://" in self.storage and not (kind.startswith("sqlite") and path and not path.startswith((":", "file:"))):
            return self
        path, _, query = path.partition("?") if mark else (path, "", "")
        located = f"{kind}{mark}{Path(path).absolute()}" + (f"?{query}" if query else "")
        return self.model_copy(update={"storage": SecretUrl(located)})


FIELDS = {field.alias or name: field for name, field in Settings.model_fields.items()}
OPTIONS = {name: note for name, field in FIELDS.items() for note in field.metadata if isinstance(note, Option)}
_NOT_RESUMED = (
    "n_trials",
    "resume",
    "accept_new_data",
    "accept_new_code",
)  # what a search that is continued does not ask again


def kind_of(name: str) -> Any:
    """Return an option's type, with its bounds."""
    return Annotated[FIELDS[name].annotation, *FIELDS[name].metadata]


def check(name: str, value: object, *, written_out: bool = False) -> Any:
    """Return an option's value as its declaration has it; see `as_kind`."""
    return as_kind(kind_of(name), value, written_out=written_out)


def as_kind(kind: Any, value: object, *, written_out: bool = False) -> Any:
    """Return a value as one of a type.

    Args:
        kind: The type.
        value: What was given.
        written_out: Whether that is the text of a command line.

    Raises:
        UsageError: It cannot be; the message says what it is and what would be right.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))
    if getattr(value, "shape", None) == ():  # a number of NumPy's
        value = value.item()  # type: ignore[attr-defined]
    try:
        if written_out and isinstance(value, str):
            return adapter.validate_strings(value)
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise UsageError("; ".join(messages.findings(error, kind)[0][1:])) from None


def default_storage(name: str) -> str:
    """Return the journal that a study is kept in unless the user says otherwise."""
    return f"studies/{name}.journal"


def _defaults(definition: Definition, study_name: str | None = None) -> dict[str, Any]:
    """Return what the options of a search are that were not given, by name."""
    name = study_name or definition.name
    of_study = {"study_name": definition.name, "storage": read_url(default_storage(name))}
    file = {each: getattr(definition.search, each) for each in SearchOptions.model_fields}
    return {each: FIELDS[each].default for each in OPTIONS} | file | of_study


def resolve(definition: Definition, *, objects: bytes = b"", **given: Any) -> Settings:
    """Return the settings of a search; an option that is not given, or None, is left to the study file.

    Args:
        objects: What `object:<name>` in it stands for, pickled.
        **given: Options by name.

    Raises:
        UsageError: There is no such option, or a value that it cannot have.
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name not in OPTIONS:
            raise UsageError(f"no option '{name}'{did_you_mean(name, OPTIONS)}")
        if value is not None:
            try:
                values[name] = check(name, value)
            except UsageError as error:
                raise UsageError(f"{name}: {error}") from None
    if values.get("resume") and "n_trials" in values:
        raise UsageError("--resume with --n-trials; --resume finishes an interrupted search; leave one of the two out")
    asked = {**_defaults(definition, values.get("study_name")), **values}
    return Settings(definition=definition, objects=objects, **asked)


def flag(name: str) -> str:
    """Return an option's flag."""
    return (*OPTIONS[name].flags, flag_of(name))[0]


def flag_of(name: str) -> str:
    """Return the flag of a name."""
    return f"--{name.replace('_', '-')}"


def arguments_of(settings: Settings, *, resuming: bool = False) -> str:
    """Return what names a study on a command line: the file, and where it is kept if not by default.

    Args:
        settings: A search of the study.
        resuming: Whether to add what the search was asked, and that it goes on.
    """
    path = settings.definition.path
    try:
        by_name = find_study(path.stem).resolve() == path.resolve()
    except UsageError:
        by_name = False
    made = path.suffix == MADE
    words = [settings.definition.name if made or not path.name else path.stem if by_name else str(path)]
    defaults = _defaults(settings.definition, settings.study_name)
    for name, option in OPTIONS.items():
        value = getattr(settings, _field(name))
        if value != defaults[name] and (option.everywhere or (resuming and name not in _NOT_RESUMED)):
            text = [] if isinstance(value, bool) else [value.given if isinstance(value, SecretUrl) else str(value)]
            words += [flag(name), *text]
    return shlex.join([*words, *(["--resume"] if resuming else [])])


def resume_command(settings: Settings) -> str:
    """Return the command that goes on with a search that was interrupted; of a study made in Python, the call."""
    if settings.objects:
        return "study.optimize(resume=True)"
    return f"python -m search.run {arguments_of(settings, resuming=True)}"


def with_options(function: F) -> F:
    """Give a method of `Study` that takes `**options` the signature and the documentation of a search's options."""
    types = get_type_hints(Settings)
    options = [
        keyword(name, None if name in SearchOptions.model_fields else FIELDS[name].default, types[_field(name)])
        for name, option in OPTIONS.items()
        if not option.everywhere  # a `Study` knows where it is kept
    ]
    return with_keywords(function, options, {name: _sentence(name) for name in OPTIONS})


def _field(name: str) -> str:
    return "registers" if name == "register" else name  # pydantic's classes have a `register` of their own


def _sentence(name: str) -> str:
    told = OPTIONS[name].help
    return f"If false, {told[0].lower()}{told[1:]}" if flag(name).startswith("--no-") else told


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
        "ensemble": settings.ensemble or None,
        "metric": ", ".join(definition.metrics),
        "direction": ", ".join(definition.directions),
        "storage": str(settings.storage),
    }
    return {name: str(value) for name, value in described.items() if value is not None}
