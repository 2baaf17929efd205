"""`python -m search.promote`: the challenger becomes champion, or the last champion returns."""

from __future__ import annotations


def main() -> None:
    """Run the command with the arguments it was called with."""
    from search.commands import promote

    promote()


if __name__ == "__main__":
    main()
