"""`python -m search.new`: a study of one's own, as a copy of another."""

from __future__ import annotations


def main() -> None:
    """Run the command with the arguments it was called with."""
    from search.commands import new

    new()


if __name__ == "__main__":
    main()
