"""The console command `search`: `search run` is `python -m search.run`, and so on."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress

from search.errors import did_you_mean

# One line a command: its module's `main` takes the arguments. Modules are imported when their command is called.
COMMANDS = {
    "run": "search, track, register",
    "stop": "end a running search, or one of its trials",
    "exclude": "leave a trial out",
    "report": "print what a study found, and write report.html",
    "studies": "list the studies here",
    "promote": "make the challenger champion",
    "predict": "predict the rows of a file",
    "reproduce": "train a trial again, and compare",
    "sync": "make MLflow agree with a study",
    "mcp": "serve these as tools for an assistant",
    "new": "copy a study, to make it your own",
}
_HELP = ("-h", "--help")


def main() -> None:
    """Call the command that the first argument names."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in _HELP:
        lines = "".join(f"  {command:10} {does}\n" for command, does in COMMANDS.items())
        with suppress(BrokenPipeError):  # of `search | head`
            print(f"Usage: search COMMAND [OPTIONS]\n\n{lines}\nsearch COMMAND --help shows its options.")  # noqa: T201
        return
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"error: no command '{name}'; there are {known}{did_you_mean(name, COMMANDS)}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    sys.argv = [f"search {name}", *rest]
    importlib.import_module(f"search.{name}").main()


if __name__ == "__main__":
    main()
