"""Train one trial in a process of its own: `python -m elmanctl.trial FOLDER` reads trial.json and writes result.json.

With --go-on it goes on from the newest checkpoint, if there is one, and writes more of them for the next time; they are deleted once
the trial is ok, unless the trial asks for checkpoints itself. SIGUSR1 writes the stacks of all threads to stderr.
A trial of several ranks is started by the same call: this process then starts one for each of them.
Exit codes: 0 the run is ok, 1 it ended otherwise (result.json says how), 2 a mistake in the request.
"""

import argparse
import faulthandler
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

from elmanctl.errors import UserError
from elmanctl.files import read_json, write_json
from elmanctl.records import Result, Trial
from elmanctl.runlog import CHECKPOINTS, RESULT, TRIAL, parse_checkpoint_name, rank_folder

OK, ENDED, BAD_REQUEST = 0, 1, 2


def main(arguments: list[str]) -> int:
    """Run the trial of one folder and return the exit code."""
    parser = argparse.ArgumentParser("python -m elmanctl.trial")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--go-on", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--checkpoint-seconds", type=float, default=0.0, help="time between checkpoints, 0 for none")
    parser.add_argument("--one-of-several", action="store_true", help="set by the launcher of several ranks")
    try:
        given = parser.parse_args(arguments)
    except SystemExit as error:  # argparse has said what is wrong
        return error.code
    folder, rank = given.folder, int(os.environ["RANK"]) if given.one_of_several else 0
    own = rank_folder(folder, rank)
    try:
        if not given.one_of_several:
            (folder / RESULT).unlink(missing_ok=True)  # an earlier result must not pass for this run's
        trial = read_json(folder / TRIAL, Trial)
        if trial.ranks > 1 and not given.one_of_several:
            from elmanctl.ranks import launch

            return launch(trial.ranks, folder, arguments)
        from elmanctl.checkpoint import drop_damaged
        from elmanctl.train import run

        if given.go_on and rank == 0:
            drop_damaged(folder)
        resume = given.go_on and has_checkpoint(folder)
        result = run(trial, folder, resume=resume, checkpoint_seconds=given.checkpoint_seconds)
        if rank > 0:  # rank 0 says how it ended, unless it does not know
            return ENDED if result.status == "oom" else OK
        if result.status == "ok" and given.go_on and not trial.training.checkpoint_every:
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return OK if result.status == "ok" else ENDED
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return failed(own, str(error), BAD_REQUEST)
    except Exception as error:
        traceback.print_exc()
        return failed(own, f"{type(error).__name__}: {error}", ENDED)


def has_checkpoint(folder: Path) -> bool:
    """Return whether a trial has a checkpoint to go on from."""
    place = folder / CHECKPOINTS
    return place.is_dir() and any(parse_checkpoint_name(path.name) for path in place.iterdir())


def failed(folder: Path, message: str, code: int) -> int:
    """Write a failed result unless the run has written its own, and return the code."""
    if folder.is_dir() and not (folder / RESULT).exists():
        try:
            write_json(folder / RESULT, Result(status="failed", steps=0, tokens=0, seconds=0.0, message=message))
        except UserError as error:
            sys.stderr.write(f"{error}\n")
    return code


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    code = main(sys.argv[1:])
    if code < 0:  # of several ranks one was killed: the whole ends as it did
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    if "--one-of-several" in sys.argv:  # taking NCCL down in order may hang for ever, above all after a failure
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
