"""`d4c` and `python -m d4c`: the command line."""

from __future__ import annotations

import sys

from d4c.interrupt import STATUS, forget, let_go, listen


def main() -> None:
    """Run the command line; a Ctrl-C while it is still being imported is one as well."""
    listen()
    try:
        from d4c.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(STATUS)
    finally:
        forget()
        let_go()


if __name__ == "__main__":
    main()
