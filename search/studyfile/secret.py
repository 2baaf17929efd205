"""URLs with passwords: given in a file or a variable, used as they are, shown without their secrets."""

from __future__ import annotations

import json
import os
import re
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from search.errors import UsageError, did_you_mean, redact

_VARIABLE = "env:"


class SecretUrl(str):
    """A URL, or the path of a file, whose text in messages and representations holds no secret.

    It is the whole URL for whoever opens it; `str`, `repr` and formatting show it without credentials.

    Attributes:
        given: How the user gave it: `@path`, `env:NAME`, or the URL without credentials.
    """

    given: str

    def __new__(cls, url: str, given: str = "") -> Self:
        """Return the URL; one that is such a URL already keeps how it was given."""
        made = super().__new__(cls, revealed(url))
        made.given = given or getattr(url, "given", "") or redact(made.reveal())
        return made

    def reveal(self) -> str:
        """Return the whole URL as a plain string."""
        return "".join(self)

    def __str__(self) -> str:
        return redact(self.reveal()) if "://" in self else self.reveal()

    def __repr__(self) -> str:
        return repr(str(self))

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


def revealed(url: str) -> str:
    """Return a URL as the library that opens it needs it."""
    return url.reveal() if isinstance(url, SecretUrl) else url


def without_secrets(text: str) -> str:
    """Return the text of a study file, TOML or JSON, without the secrets in it; it stays valid."""
    with suppress(ValueError):
        return json.dumps(_hidden(json.loads(text)), indent=2)
    hidden = redact(text)
    quoted = re.sub(r"(?m)(=\s*)(\*\*\*)(?=[\s,}\]]|$)", r'\1"\2"', hidden)  # what had no quotes, as a number
    with suppress(tomllib.TOMLDecodeError):
        tomllib.loads(quoted)
        return quoted
    return hidden


def _hidden(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _hidden(part, str(name)) for name, part in value.items()}
    if isinstance(value, list):
        return [_hidden(part, key) for part in value]
    if value is None or isinstance(value, bool):
        return value
    if redact(f"{key}='x'") != f"{key}='x'":
        return "***"
    return redact(value) if isinstance(value, str) else value


def read_url(given: str | os.PathLike[str]) -> SecretUrl:
    """Return the URL that an option gives: itself, `@path` (the file's first line) or `env:NAME` (a variable).

    Raises:
        UsageError: There is no such file or variable, or nothing in it.
    """
    if isinstance(given, SecretUrl):
        return given
    given = os.fspath(given)
    if given.startswith("@"):
        return SecretUrl(_first_line(Path(given[1:]).expanduser()), given)
    if given.startswith(_VARIABLE):
        return SecretUrl(_variable(given.removeprefix(_VARIABLE)), given)
    return SecretUrl(given)


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            line = file.readline(10_000).strip()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not a text file; write the URL in its first line") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise UsageError(f"{path} cannot be read ({reason}); after @ give a file whose first line is the URL") from (
            None
        )
    if not line:
        raise UsageError(f"the first line of {path} is empty; write the URL there")
    return line


def _variable(name: str) -> str:
    url = os.environ.get(name, "").strip()
    if not url:
        state = "empty" if name in os.environ else "not set"
        raise UsageError(f"the environment variable '{name}' is {state}{did_you_mean(name, os.environ)}")
    return url
