"""The errors of `search`, and nothing else.

Two families, kept apart because one place decides between them: a *trial* that fails is recorded
and the search goes on; any other error ends the command.

    SearchError                    one line for the person; carries `exit_status`
    ├── UsageError                 bad input; exit status 2
    │   ├── StudyFileError         a study file's key: what was found, what would be right
    │   ├── DataError              the data cannot be read, split or learned from
    │   │   └── RowsChanged        they are others than those that the search began with
    │   ├── ModelError             the model cannot be built or compiled
    │   ├── StorageError           Optuna's storage or its study cannot be used
    │   │   └── NewerVersionError  a newer version of this package wrote what cannot be read
    │   ├── TrackingError          MLflow's store cannot be used
    │   ├── RegistryError          no such model, version or alias
    │   └── ClusterError           the cluster's scheduler cannot be used
    ├── NoTrialCompleted           exit status 1
    └── Interrupted                exit status 130 (143 by SIGTERM)
    TrialFailed                    this trial failed; the search goes on

Messages never hold a password: every URL passes through `redact`.
"""

from __future__ import annotations

import difflib
import os
import re
import string
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from search.system.place import names_at_hand, place_of, text_of

_HIDDEN = "***"
_NAME_CHARACTERS = string.ascii_letters + string.digits + "._+%-"
_USER = re.compile(r"[^\s:@/?#]*")
_QUOTED = r"\"{3}[^\"]*\"{3}|'{3}[^']*'{3}|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'"
_SECRETS = (
    r"(?:passwords?|passwd|pwd|passphrase|(?<![a-z])pass(?==)"
    r"|(?<!mask_)(?<!oov_)(?<!pad_)(?<!sep_)(?<!unk_)(?<!cls_)(?<!bos_)(?<!eos_)token|secret|credentials?|signature"
    r"|(?:api|access|private|account|secret|signing|encryption)[_-]?key(?:[_-]?id)?)"
)
_OPTIONS = re.compile(
    rf"(?i)((?:{_SECRETS}|(?<=[?&])(?:sig|auth|jwt|code|sid|session(?:_?id)?|\w*key))[\"']?\s*(?:[=:]|%3D)\s*)"
    rf"({_QUOTED}|(?!{{\s*[\"']?type[\"']?\s*[=:]\s*[\"'](?:int|float|categorical)\b)"  # a parameter of a space
    rf"(?:(?:\[[^\]\n]{{0,500}}\]|{{[^}}\n]{{0,500}}}})(?=[\s,;&)\]}}]|$)|[^\s&;]*[^\s&;\"')\]}}>,]))"
)
_PAIRS = re.compile(rf"(?i)(\([\"'][\w-]*(?:{_SECRETS}|authorization|cookie)[\"'],\s*)({_QUOTED})")
_FLAGS = re.compile(rf"(?i)((?<![\w-])--[\w-]*?{_SECRETS}\s+)(?!-)\S+")
_HEADERS = re.compile(
    r"(?i)(\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|digest|token|apikey)(?:\s+|%20|\+))?"
    r"|\bcookie[\"']?\s*[:=]\s*[\"']?|\bbearer(?:\s+|%20))[^\s\"',]+"
)
_BASIC = re.compile(r"(\b[Bb]asic\s+)(?=[a-z+/]*[A-Z0-9=])[\w+/=]{6,}")
_ENCODED = re.compile(r"(?i)(%3A%2F%2F)(?:(?!%40|%2F)\S)+(?=%40)")  # the user of a URL in another URL
_BLOCKS = re.compile(r"(-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----)[^-]*")
_TOKENS = re.compile(
    r"\b(?:(?:gh[opsu]_|github_pat_|hf_|glpat-|xox[abp]-|npm_|sk-|AIza)[\w-]{16,}|dapi[0-9a-f]{32}(?:-\d)?"
    r"|AKIA[0-9A-Z]{16}\b|eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]+)"
)


def redact(text: str) -> str:
    """Return `text` with the credentials of every URL, option, header and well-known token replaced by `***`."""
    if "@" in text:
        text = re.sub(r"\S+", lambda word: _without_user(word[0]), text)
    text = _BASIC.sub(rf"\1{_HIDDEN}", _HEADERS.sub(rf"\1{_HIDDEN}", text))
    for each in (_BLOCKS, _ENCODED, _FLAGS):
        text = each.sub(rf"\1{_HIDDEN}", text)
    for each in (_PAIRS, _OPTIONS):
        text = each.sub(_in_its_quotes, text)
    return _TOKENS.sub(_HIDDEN, text)


def _in_its_quotes(found: re.Match[str]) -> str:
    """Return a hidden value in the quotes that it had, so that a file or a program stays valid."""
    quote = next((mark for mark in ('"""', "'''", '"', "'") if found[2].startswith(mark)), "")
    return f"{found[1]}{quote}{_HIDDEN}{quote}"


def _without_user(word: str) -> str:
    """Return a word without user and password before an `@`; the last one counts, as a password may hold some."""
    last = word.rfind("@")
    if last < 0:
        return word
    start = _start_in_url(word, last) if "://" in word else _start_without_scheme(word, last)
    return word if start is None else f"{word[:start]}{_HIDDEN}{word[last:]}"


def _start_in_url(word: str, last: int) -> int | None:
    """Return where `user:password` or `token` begins, which ends at `last`; None where there is none."""
    scheme = word.find("://")
    while 0 <= scheme < last:
        start = scheme + 3
        end = _USER.match(word, start).end()  # type: ignore[union-attr]  # it matches an empty text, too
        if word[end : end + 1] in (":", "@"):
            return start
        scheme = word.find("://", start)
    return None


def _start_without_scheme(word: str, last: int) -> int | None:
    """Return where `user:password` begins in a word that is no URL; None where there is none."""
    start = 0
    for part in word.split(":")[:-1]:
        end = start + len(part)
        user = len(part) - len(part.rstrip(_NAME_CHARACTERS))
        # `models:/name@alias` and `C:\\name@x` are no credentials.
        if user and end + 1 < last and word[end + 1] not in "/\\" and word[last + 1 : last + 2].strip("'\")"):
            return end - user
        start = end + 1
    return None


_LONGEST = 1000  # characters of a reason


def printable(text: str, longest: int = _LONGEST) -> str:
    """Return text that any store and terminal takes: valid Unicode, no control characters, cut to a length."""
    valid = text.encode("utf-8", "replace").decode("utf-8")
    clean = "".join(each if each.isprintable() or each in "\n\t" else "?" for each in valid)
    return clean if len(clean) <= longest else f"{clean[: longest - 2]} …"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest of `known`, or an empty string."""
    spelt = {each.lower(): each for each in known}
    nearest = difflib.get_close_matches(word.lower(), spelt, n=1, cutoff=0.6)
    return f"; did you mean '{spelt[nearest[0]]}'?" if nearest else ""


def nearest_first(word: str, known: Iterable[str], told: str) -> str:
    """Return what is told of all that is known, after the nearest: `did you mean 'x'? it has x, y`."""
    return f"{did_you_mean(word, known).removeprefix('; ')} {told}".lstrip()


# What frameworks put before the cause: which layer was called, where the graph's node was made.
_PREAMBLE = re.compile(
    r"Exception encountered when calling|Graph execution error|Detected at node|<stack traces unavailable>|File \""
    r"|Could not automatically infer the output|Error encountered:"
)
_APPENDIX = re.compile(r"^\s*Arguments received by .*", re.MULTILINE | re.DOTALL)  # what Keras puts behind it
_TRACEBACKS = ("in user code:", "Traceback (most recent call last):")  # their last line is the cause
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NODE = re.compile(r"^\{\{(?:function_)?node [^}]*\}\}\s*|\s*\[Op:[^\]]*\]\s*(?:name:)?\s*$")
_TEXT_KIND = re.compile(r"(?:dtype\()?(['\"]?)[<>|=][US]\d+\1\)?")  # NumPy's name for text of some length
_ERROR = re.compile(r"[A-Za-z_.]+(?:Error|Exception): ")


def one_line(error: BaseException) -> str:
    """Return where in the user's code an error arose, its type, and the line of its message that tells the cause.

    `m.py, line 12, in build: KeyError: 'widht'; did you mean 'width'? trial.params has epochs, width`. An error that
    says nothing, and a group of errors, are followed by the first one behind them. There are no credentials in it.
    """
    return printable(redact(_line(error)))


def raised(what: str, error: BaseException) -> str:
    """Return what the user's code raised, and where; `what` names that code where no file of it is in the traceback."""
    line = one_line(error)
    return line if place_of(error) else f"{what} raised {line}"


_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def without_numbers(reason: str) -> str:
    """Return a reason without its numbers, so that failures of one kind read alike."""
    return _NUMBER.sub("#", reason)


def _line(error: BaseException, told: str = "") -> str:
    """Return an error in a line, after its place where that is not told yet."""
    said, behind = _cause(error.msg if isinstance(error, SyntaxError) else text_of(error)), None
    if isinstance(error, BaseExceptionGroup):
        behind = error.exceptions[0]
    elif not said or error.__cause__ is not None:
        behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    where = place_of(error)
    line = f"{where}: " if where and where != told else ""
    line += f"{type(error).__name__}: {said}" if said else type(error).__name__
    names = names_at_hand(error)
    hint = did_you_mean(names.misspelt, names.known)
    line += f"{hint} {names.listed}".rstrip() if hint else f"; {names.listed}" if names.listed else ""
    if behind not in (None, error) and _cause(text_of(behind)) not in line:
        line = f"{line} (from {_line(behind, where)})"
    return line


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@contextmanager
def told(failure: str, say: Callable[[str], object] = _to_stderr) -> Iterator[None]:
    """Let an error in the block end nothing: it is said in a line, which begins with what is lost by it.

    Args:
        failure: What is lost.
        say: Called with the line; it goes to standard error when left out.
    """
    try:
        yield
    except Exception as error:  # whatever code of the user's own raises
        say(f"{failure}: {one_line(error)}")


def _cause(message: str) -> str:
    """Return the line of a message that tells the cause."""
    clean = _APPENDIX.sub("", _ESCAPES.sub("", message))
    lines = [line.strip() for line in clean.splitlines() if line.strip(' "')]  # quotes are around another process's
    if not lines:
        return ""
    if lines[0] == _TRACEBACKS[0]:
        lines = [_ERROR.sub("", line, count=1) for line in lines if _ERROR.match(line)][-1:] or lines
    at = next((at for at, line in enumerate(lines) if not _PREAMBLE.match(line)), 0)
    if lines[at] == _TRACEBACKS[1]:
        at = next((at for at in reversed(range(len(lines))) if _ERROR.match(lines[at])), at)
    more = f" {lines[at + 1]}" if lines[at].endswith(":") and at + 1 < len(lines) else ""
    return _TEXT_KIND.sub("text", _NODE.sub("", lines[at]) + more)


class SearchError(Exception):
    """An error with one line for the person who ran the command."""

    exit_status = 1

    def __init__(self, message: str) -> None:
        line = redact(" ".join(message.split()))
        super().__init__("".join(each if each.isprintable() else "?" for each in line))

    def full_traceback(self) -> str:
        """Return the whole traceback as text, with that of the worker where it arose in one."""
        return redact("".join(traceback.format_exception(self)))

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython shows: the message alone, but for `%tb`, which asks for the traceback."""
        callers = ((frame.f_globals.get("__name__"), frame.f_code.co_name) for frame, _ in traceback.walk_stack(None))
        if ("IPython.core.magics.execution", "tb") in callers:
            return self.full_traceback().splitlines()
        return [f"{type(self).__name__}: {self} (%tb shows the traceback)"]


class UsageError(SearchError, ValueError):
    """Bad input: nothing was run and nothing was written."""

    exit_status = 2


class StudyFileError(UsageError):
    """A study file says something that cannot be.

    Args:
        path: The study file; NAME.json of a study that is made in Python, which has none.
        key: The dotted key, for example `space.width.low`; empty for the whole file.
        found: What stands there.
        expected: What would be right.
        others: What else is wrong in the file: key, found, expected.
    """

    def __init__(
        self, path: str, key: str, found: str, expected: str, others: tuple[tuple[str, str, str], ...] = ()
    ) -> None:
        self.path, self.key, self.found, self.expected, self.others = path, key, found, expected, others
        made = path.endswith(".json") and os.path.dirname(path) == ""
        study = f"study '{path.removesuffix('.json')}'" if made else path
        where = f"{study}: {key}" if key else study
        more = "".join(f" -- also {name}: {what}; {right}" for name, what, right in others)
        super().__init__(f"{where}: {found}; {expected}{more}")

    def __reduce__(self) -> tuple[type[StudyFileError], tuple[Any, ...]]:
        return type(self), (self.path, self.key, self.found, self.expected, self.others)


class DataError(UsageError):
    """The data cannot be read, split or learned from."""


class RowsChanged(DataError):
    """The rows are others than those that the search began with."""


class ModelError(UsageError):
    """The model cannot be built, or what was built is no compiled Keras model."""


class StorageError(UsageError):
    """Optuna's storage, or the study in it, cannot be used."""


class NewerVersionError(StorageError):
    """A record lacks what this version of the package needs.

    Args:
        what: What the record is of.
        version: This version.
    """

    def __init__(self, what: str, version: str) -> None:
        self.what, self.version = what, version
        super().__init__(f"{what} was written by a newer version of search than {version}; upgrade search here too")

    def __reduce__(self) -> tuple[type[NewerVersionError], tuple[str, str]]:
        return type(self), (self.what, self.version)


class TrackingError(UsageError):
    """MLflow's tracking store cannot be used."""


class RegistryError(UsageError):
    """The registered model, version or alias does not exist."""


class ClusterError(UsageError):
    """The cluster's scheduler cannot be reached or has no workers."""


class NoTrialCompleted(SearchError):
    """Every trial of the search was pruned or failed."""


class Interrupted(SearchError):
    """The search was interrupted; everything finished so far is kept.

    Args:
        message: One line for the person.
        signal: What interrupted it; the exit status is 128 more.

    Attributes:
        signal: Likewise.
        outcome: What the search came to until then, a `search.session.Outcome`; None when no trial completed.
    """

    outcome: object = None

    def __init__(self, message: str, signal: int = 2) -> None:
        super().__init__(message)
        self.signal, self.exit_status = signal, 128 + signal


class TrialFailed(Exception):
    """One trial failed; the search goes on.

    Args:
        reason: One line that says why.
        traceback: The traceback in the worker, empty when the worker died.
    """

    def __init__(self, reason: str, traceback: str = "") -> None:
        super().__init__(reason)
        self.reason, self.traceback = reason, traceback
