"""Train one trial in a process of its own: `python -m elmanctl.trial FOLDER` reads trial.json and writes result.json.

Exit codes: 0 the run is ok, 1 it ended otherwise (result.json says how), 2 a mistake in the request.
"""

import sys
import traceback
from pathlib import Path

from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.records import Result, Trial
from elmanctl.runlog import RESULT, TRIAL

OK, ENDED, BAD_REQUEST = 0, 1, 2


def main(arguments: list[str]) -> int:
    """Run the trial of one folder and return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m elmanctl.trial FOLDER\n")
        return BAD_REQUEST
    folder = Path(arguments[0])
    try:
        (folder / RESULT).unlink(missing_ok=True)  # an earlier result must not pass for this run's
        trial = read_json(folder / TRIAL, Trial)
        from elmanctl.train import run

        return OK if run(trial, folder).status == "ok" else ENDED
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return failed(folder, str(error), BAD_REQUEST)
    except Exception as error:
        traceback.print_exc()
        return failed(folder, f"{type(error).__name__}: {error}", ENDED)


def failed(folder: Path, message: str, code: int) -> int:
    """Write a failed result unless the run has written its own, and return the code."""
    if folder.is_dir() and not (folder / RESULT).exists():
        try:
            write_json(folder / RESULT, Result(status="failed", steps=0, tokens=0, seconds=0.0, message=message))
        except UserError as error:
            sys.stderr.write(f"{error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
