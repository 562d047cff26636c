"""Write docs/cli.md: the help of every verb, as the command line prints it.

python docs/make_cli.py            write docs/cli.md
python docs/make_cli.py --check    exit 1 if docs/cli.md is not what would be written
"""

import os
import sys
from pathlib import Path

os.environ |= {"ELMANCTL_NO_LOCAL": "1", "ELMANCTL_PLUGINS": ""}  # the tool's own verbs, whatever is installed

from elmanctl.cli import make_command

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 100
HEAD = """# Command line

Written by `python docs/make_cli.py` from `--help`; a test checks that it is current.
"""


def sections(command, name: str, parent=None):
    """Yield (name, help text) of a command and of everything below it, in the order of the help."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH)
    path = context.command_path
    yield path, command.get_help(context)
    for sub in getattr(command, "commands", {}).values():
        yield from sections(sub, sub.name, context)


def page() -> str:
    """Return the page's text."""
    parts = [f"## {path}\n\n```text\n{text.rstrip()}\n```\n" for path, text in sections(make_command(), "elmanctl")]
    return "\n".join([HEAD, *parts])


def main() -> int:
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text)
        return 0
    if PAGE.exists() and PAGE.read_text() == text:
        return 0
    sys.stderr.write(f"{PAGE} is not current. Run: python docs/make_cli.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
