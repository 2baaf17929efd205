"""The errors of `search`, and nothing else.

Two families, kept apart because one place decides between them: a *trial* that fails is recorded
and the search goes on; any other error ends the command.

    SearchError                    one line for the person; carries `exit_status`
    ├── UsageError                 bad input; exit status 2
    │   ├── StudyFileError         a study file's key: what was found, what would be right
    │   ├── DataError              the data cannot be read, split or learned from
    │   ├── ModelError             the model cannot be built or compiled
    │   ├── StorageError           Optuna's storage or its study cannot be used
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
import re
import string
from collections.abc import Iterable

_HIDDEN = "***"
_NAME_CHARACTERS = string.ascii_letters + string.digits + "._+%-"
_USER = re.compile(r"[^\s:@/?#]*")
_QUOTED = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'"
_SECRETS = (
    r"(?:passwords?|passwd|pwd|passphrase|(?<![a-z])pass(?==)|token|secret|credentials?|signature"
    r"|(?:api|access|private|account|secret|signing|encryption)[_-]?key(?:[_-]?id)?)"
)
_OPTIONS = re.compile(
    rf"(?i)((?:{_SECRETS}|(?<=[?&])(?:sig|auth|jwt|code|sid|session(?:_?id)?|\w*key))[\"']?\s*(?:[=:]|%3D)\s*)"
    rf"({_QUOTED}|[^\s&;]*[^\s&;\"')\]}}>,])"
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
    for each in (_BLOCKS, _ENCODED, _PAIRS, _OPTIONS, _FLAGS):
        text = each.sub(rf"\1{_HIDDEN}", text)
    return _TOKENS.sub(_HIDDEN, text)


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


# What frameworks put before the cause: which layer was called, where the graph's node was made.
_PREAMBLE = re.compile(
    r"Exception encountered when calling|Graph execution error|Detected at node|<stack traces unavailable>|File \""
    r"|Could not automatically infer the output|Error encountered:|Arguments received by"
)
_USER_CODE = "in user code:"  # a traceback follows, whose last line is the cause
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_NODE = re.compile(r"^\{\{(?:function_)?node [^}]*\}\}\s*|\s*\[Op:[^\]]*\]\s*(?:name:)?\s*$")
_ERROR = re.compile(r"[A-Za-z_.]+(?:Error|Exception): ")


def one_line(error: BaseException) -> str:
    """Return the type and the line of `error`'s message that tells the cause, without credentials."""
    lines = [line.strip() for line in _ESCAPES.sub("", _text(error)).splitlines() if line.strip()]
    name = type(error).__name__
    if not lines:
        return name
    if lines[0] == _USER_CODE:
        lines = [_ERROR.sub("", line, count=1) for line in lines if _ERROR.match(line)][-1:] or lines
    cause = next((line for line in lines if not _PREAMBLE.match(line)), lines[0])
    return printable(redact(f"{name}: {_NODE.sub('', cause)}"))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # an error of the user's own may fail to say what it is
        return ""


class SearchError(Exception):
    """An error with one line for the person who ran the command."""

    exit_status = 1

    def __init__(self, message: str) -> None:
        line = redact(" ".join(message.split()))
        super().__init__("".join(each if each.isprintable() else "?" for each in line))


class UsageError(SearchError, ValueError):
    """Bad input: nothing was run and nothing was written."""

    exit_status = 2


class StudyFileError(UsageError):
    """A study file says something that cannot be.

    Args:
        path: The study file.
        key: The dotted key, for example `space.width.low`; empty for the whole file.
        found: What stands there.
        expected: What would be right.
    """

    def __init__(self, path: str, key: str, found: str, expected: str) -> None:
        self.path, self.key, self.found, self.expected = path, key, found, expected
        where = f"{path}: {key}" if key else path
        super().__init__(f"{where}: {found}; {expected}")

    def __reduce__(self) -> tuple[type[StudyFileError], tuple[str, str, str, str]]:
        return type(self), (self.path, self.key, self.found, self.expected)


class DataError(UsageError):
    """The data cannot be read, split or learned from."""


class ModelError(UsageError):
    """The model cannot be built, or what was built is no compiled Keras model."""


class StorageError(UsageError):
    """Optuna's storage, or the study in it, cannot be used."""


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
        outcome: What the search came to until then, a `search.session.Outcome`; None when no trial completed.
    """

    outcome: object = None

    def __init__(self, message: str, signal: int = 2) -> None:
        super().__init__(message)
        self.exit_status = 128 + signal


class TrialFailed(Exception):
    """One trial failed; the search goes on.

    Args:
        reason: One line that says why.
        traceback: The traceback in the worker, empty when the worker died.
    """

    def __init__(self, reason: str, traceback: str = "") -> None:
        super().__init__(reason)
        self.reason, self.traceback = reason, traceback
