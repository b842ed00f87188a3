"""The ``hasn-edge`` command, also as ``python -m hasn_edge``."""

import sys


def main() -> None:
    """Run the command; Ctrl-C while it is still being loaded ends it as quietly as later on."""
    try:
        from hasn_edge.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
