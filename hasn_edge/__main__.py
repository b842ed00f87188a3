"""The ``hasn-edge`` command, also as ``python -m hasn_edge``."""

import sys

from hasn_edge import interrupt


def main() -> None:
    """Run the command, and be the last thing that this process does."""
    interrupt.leave_at_once()
    try:
        from hasn_edge.cli import main as run

        run()
    except KeyboardInterrupt:  # by another handler
        sys.exit(interrupt.EXIT_CODE)


if __name__ == "__main__":
    main()
