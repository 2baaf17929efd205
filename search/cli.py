"""What the commands share: options, and the one place where an error becomes a line and an exit status."""

from __future__ import annotations

import errno
import gc
import inspect
import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar

import typer

from search.errors import Interrupted, SearchError, UsageError, one_line
from search.figures import paragraph, width_of
from search.studyfile import settings
from search.studyfile.load import find_study, load_definition
from search.studyfile.options import SearchOptions, keyword, noted, with_keywords
from search.studyfile.settings import Settings
from search.system import machine

F = TypeVar("F", bound=Callable[..., None])

# The root of typer's own errors; typer names it nowhere in public (it was click's until 0.25).
_TYPER_ERROR: Any = typer.BadParameter.__mro__[2]

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOSPC)
_DEBUG = keyword("debug", False, Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")])
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Study = Annotated[str, typer.Argument(metavar="STUDY", help="A study file, or the name of one in studies/.")]


def checked(kind: Any) -> Callable[[str | None], Any]:
    """Return what reads an option's text as a value of a type, or says what would be right."""

    def check(text: str | None) -> Any:
        try:
            return None if text is None else settings.as_kind(kind, text, written_out=True)
        except UsageError as error:
            raise typer.BadParameter(str(error)) from None

    return check


def declared(name: str, unset: str = "") -> Any:
    """Return the form on the command line of an option that `search.studyfile` declares.

    Args:
        unset: What holds when it is not given, where that is not as declared.
    """
    option = settings.OPTIONS[name]
    flags = option.flags or (settings.flag(name),)
    if not option.value:
        turns_off = flags[0].startswith("--no-")
        return typer.Option(*flags, callback=lambda on: on is not turns_off, help=option.help)
    default = unset or option.unset or settings.FIELDS[name].default
    file = "the file's, else " if name in SearchOptions.model_fields else ""
    default = f"{default:g}" if isinstance(default, float) else default
    told = f"{option.help}  [default: {file}{default}]" if default is not None else option.help
    return typer.Option(*flags, metavar=option.value, callback=checked(settings.kind_of(name)), help=told)


TrackingUri = Annotated[str | None, declared("tracking_uri")]


def with_options(*names: str) -> Callable[[F], F]:
    """Add these options of a search to a command that takes `**options`."""
    parameters = [
        keyword(name, None if option.value else False, Annotated[str | None if option.value else bool, declared(name)])
        for name, option in ((name, settings.OPTIONS[name]) for name in names)
    ]
    return lambda command: with_keywords(command, parameters, evaluated=True)


def with_fields(kind: type) -> Callable[[F], F]:
    """Add the fields of a dataclass, as options, to a command that takes `**options`."""
    parameters = []
    for name, (annotation, default, option) in noted(kind).items():
        several, flags = annotation == tuple[str, ...], option.flags or (settings.flag_of(name),)
        form = typer.Option(*flags, metavar=option.value or None, help=option.help)
        taken = list[str] | None if several else annotation
        parameters.append(keyword(name, None if several else default, Annotated[taken, form]))
    return lambda command: with_keywords(command, parameters, evaluated=True)


def settings_of(study: str, **options: Any) -> Settings:
    """Return the settings of a command about a study, with the options that it was given."""
    return settings.resolve(load_definition(find_study(study, _beside(options.get("storage")))), **options)


def _beside(storage: str | None) -> Path:
    """Return the folder in which the definition of a study made in Python lies."""
    if storage is None:
        return Path("studies")
    from search.study.storage import folder_of

    return folder_of(storage)


_json_stream: Any = None  # where the command's JSON goes; None before standard output is kept for it


def print_json(told: Any) -> None:
    """Print what `--json` promises: one value, alone on standard output; JSON knows no NaN, which becomes null."""
    stream = sys.stdout if _json_stream is None else _json_stream
    stream.write(f"{json.dumps(_finite(told), allow_nan=False)}\n")
    stream.flush()


def _finite(told: Any) -> Any:
    if isinstance(told, Mapping):
        return {name: _finite(each) for name, each in told.items()}
    if isinstance(told, list | tuple):
        return [_finite(each) for each in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told


def _keep_for_json() -> None:
    """Keep standard output for `print_json`: what else is printed, by code of the user's too, is no JSON."""
    global _json_stream  # noqa: PLW0603 - standard output is one for the process
    with suppress(OSError, ValueError):  # one of the two is closed
        sys.stdout.flush()
        _json_stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        sys.stdout = sys.stderr


def tell(text: str, stream: TextIO | None = None) -> None:
    """Print a sentence in one line; on a terminal in lines that fit it, broken between words."""
    to = sys.stdout if stream is None else stream
    print(*paragraph(text, width_of(to)), sep="\n", file=to)


def application(function: Callable[..., None]) -> typer.Typer:
    """Return a command with its help as plain text: typer's tables cut names, and take `[default: …]` for a style."""

    @wraps(function)
    def called(*given: Any, debug: bool, **named: Any) -> None:  # noqa: ARG001 - `_fail` looks for it
        function(*given, **named)

    signature = inspect.signature(function, eval_str=True)
    parameters = [*signature.parameters.values(), _DEBUG]
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(called)
    return app


def main_of(command: Callable[..., None]) -> Callable[[], None]:
    """Return the `main` of a command's module: it runs the command with the arguments that the process was given."""
    return lambda: execute(command, f"python -m search.{command.__name__.removesuffix('_command')}")


def execute(function: Callable[..., None], name: str) -> None:
    """Run a command; turn an error into a line and an exit status."""
    app = application(function)
    _encode_anything()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's own lines about GPUs that are not there
    if "--json" in sys.argv and not {"-h", "--help"} & set(sys.argv):
        _keep_for_json()
    for number in machine.ending_signals():
        signal.signal(number, _terminate)
    try:
        called = sys.argv[0] if sys.argv[0].startswith("search ") else name  # by the console command
        _check_encoding()
        status = app(prog_name=called, standalone_mode=False)
    except _TYPER_ERROR as error:
        status = _fail(error.format_message(), 2)
    except Interrupted as error:
        print(error, file=sys.stderr)
        status = error.exit_status
    except SearchError as error:
        status = _fail(str(error), error.exit_status, error)
    except (KeyboardInterrupt, typer.Abort) as error:
        print("interrupted", file=sys.stderr)
        status = 128 + (error.number if isinstance(error, _Terminated) else signal.SIGINT)
    except BrokenPipeError:
        status = 0
    except Exception as error:
        status = _unexpected(error)
    gc.freeze()  # nothing dies before the process does; collecting it all at exit takes 1.5 s
    sys.exit(status or 0)


def _unexpected(error: Exception) -> int:
    if isinstance(error, OSError) and error.filename is not None and error.errno in _NOT_WRITABLE:
        told = f"{error.filename} cannot be written ({error.strerror}); name another place, or make it writable"
        return _fail(told, 2, error)
    return _fail(f"{one_line(error)} (a defect, or a part that failed; --debug shows where)", 1, error)


def _encode_anything() -> None:
    """Print the code of a character that the terminal cannot show; an error would come after everything was done."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_encoding() -> None:
    """Refuse names that Python could not decode: MLflow and the databases take none of them.

    Raises:
        UsageError: The working folder or an argument has characters that the locale's encoding lacks,
            or the folder is gone.
    """
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        raise UsageError("the working folder was deleted; go to one that is there") from None
    for what, text in [("the working folder", folder), *(("the argument", each) for each in sys.argv[1:])]:
        if any("\ud800" <= character <= "\udfff" for character in text):
            shown = os.fsencode(text).decode("utf-8", "replace")
            lacking = f"is not in the encoding of this locale ({sys.getfilesystemencoding()})"
            raise UsageError(f"{what} '{shown}' {lacking}; set PYTHONUTF8=1, or LC_ALL to a UTF-8 locale")


class _Terminated(KeyboardInterrupt):
    """The process was asked to end by another signal than Ctrl-C's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _terminate(number: int, _: object) -> None:
    raise _Terminated(number)


def _fail(message: str, status: int, error: BaseException | None = None) -> int:
    if "--debug" in sys.argv and error is not None:
        import traceback

        traceback.print_exception(error)
    tell(f"error: {' '.join(message.split())}", sys.stderr)
    return status
