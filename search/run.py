"""`python -m search.run`: search, track, register.

Light on purpose: worker processes import this module again as their main module.
"""

from __future__ import annotations


def main() -> None:
    """Run the command with the arguments it was called with."""
    from search.commands import run

    run()


if __name__ == "__main__":
    main()
