"""`python -m search.report`: a study's best trials in the terminal, its plots as files."""

from __future__ import annotations


def main() -> None:
    """Run the command with the arguments it was called with."""
    from search.commands import report

    report()


if __name__ == "__main__":
    main()
