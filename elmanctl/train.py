"""The only training loop's entry: run a trial, whatever happens, to a record of how it ended.

* The loop itself is session.Session; one optimizer step is step.py.
* steps.jsonl grows while it runs; result.json is written at the end, also of a run that fails or is interrupted.
"""

from pathlib import Path

from elmanctl.errors import UserError
from elmanctl.progress import Progress
from elmanctl.records import Result, Trial
from elmanctl.session import Diverged, Session

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "out of memory")


def run(
    trial: Trial,
    folder: Path,
    progress: Progress | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 0.0,
) -> Result:
    """Train one trial and write its records to a folder.

    Args:
        trial: what to train, resolved; folder: where steps.jsonl, result.json and checkpoints go.
        progress: hears of each step.
        resume: go on from the folder's newest checkpoint.
        checkpoint_seconds: time between checkpoints to go on from, besides those the trial asks for; 0 for none.
    Returns:
        the result, with status ok, diverged, oom or interrupted.
    Raises:
        UserError: for a mistake in the request, or a full disk; result.json then says failed, where it can be written.
    """
    session = Session(trial, Path(folder), progress)
    session.save_seconds = checkpoint_seconds
    status, message = "failed", ""
    with session.interrupt:
        try:
            session.prepare(resume)
            status = session.train()
        except Diverged as error:
            status, message = "diverged", str(error)
        except KeyboardInterrupt:
            status = "interrupted"
        except Exception as error:
            message = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            if not out_of_memory(error):
                raise
            status, message = "oom", memory_advice(trial, error)
        finally:
            session.interrupt.gentle = True
            result = session.close(status, message, resume)
    if session.agreed:
        session.ranks.leave()
    return result


def out_of_memory(error: Exception) -> bool:
    """Return whether an exception says that memory ran out, on a device or on the host."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
    )


def memory_advice(trial: Trial, error: Exception) -> str:
    """Return what to record where memory ran out."""
    t, reason = trial.training, (str(error) or type(error).__name__).splitlines()[0]
    return f"Out of memory at batch {t.batch} x chunk {t.chunk}: {reason} Use a smaller --batch, --chunk or model."
