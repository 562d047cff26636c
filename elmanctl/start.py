"""Where a process of the command line begins: Ctrl-C is as quiet while the rest is imported as it is later."""

import sys

from elmanctl.interrupt import INTERRUPTED, install


def main() -> None:
    """Run the command line and exit with its code."""
    install()
    try:
        from elmanctl.cli import run
    except KeyboardInterrupt:
        sys.stderr.write(f"{INTERRUPTED}\n")
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))
