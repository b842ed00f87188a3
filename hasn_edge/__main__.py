"""The ``hasn-edge`` command, also as ``python -m hasn_edge``."""

import sys
from pathlib import Path

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
    here = str(Path(__file__).resolve().parents[1])
    if not getattr(sys.flags, "safe_path", sys.flags.isolated) and sys.path[0] != here:  # a checkout
        # Python put the user's folder first, where a ./triton would be taken for the package of that name.
        del sys.path[0]
    main()
