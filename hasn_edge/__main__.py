"""``python -m hasn_edge`` is the ``hasn-edge`` command."""

from hasn_edge.cli import main

if __name__ == "__main__":
    main()
