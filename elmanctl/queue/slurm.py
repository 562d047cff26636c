"""The `slurm` engine: each attempt is a Slurm job, submitted through submitit, that runs the attempt's supervisor on its node.

* The run's folder is shared by all nodes, and its log stays the truth: a job of the queue has `slurm:<id>` as device, and the Slurm job
  of that id, and no other, may run it. So a Slurm job that nobody knows of any more ends at once.
* Slurm chooses node and GPUs, and has the queue; what it says (squeue) is shown as the reason why a trial waits.
* Requeued by Slurm (preemption, a node that failed) or by submitit shortly before the time limit, the same Slurm job goes on from the
  newest checkpoint, also where bench is gone; see slurm_job.py.
"""

import math
import shutil
import subprocess
import time
from dataclasses import dataclass

from elmanctl.errors import UserError, did_you_mean
from elmanctl.queue.log import Queue
from elmanctl.queue.states import PREFIX, QUEUED, Job, Slurm

LOOK_SECONDS = 2.0  # between calls of squeue
ASK_SECONDS = 30.0  # for an answer of Slurm
SIGNAL_SECONDS = 120  # before the time limit: for the step and a checkpoint
LONGEST_MINUTES = 7 * 24 * 60  # where a partition sets no limit
REQUEUES = 1000  # at a time limit; a trial that gets no further is ended by its own limits
INSTALL = "pip install 'elmanctl[slurm]'"
WAITS = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNS = ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


@dataclass(frozen=True)
class State:
    """What squeue says of a Slurm job: its state, and the reason or the node."""

    state: str
    detail: str

    @property
    def waits(self) -> bool:
        return self.state in WAITS

    @property
    def runs(self) -> bool:
        return self.state in RUNS


def ask(*call: str) -> str:
    """Return what one of Slurm's commands prints.

    Raises:
        UserError: when it is not there, fails, or does not answer.
    """
    try:
        ran = subprocess.run(call, capture_output=True, text=True, timeout=ASK_SECONDS, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise UserError(
            f"--engine slurm: there is no {call[0]} here. Start bench on a machine from which jobs are submitted to Slurm, or "
            "leave --engine out to use this machine's GPUs."
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"Slurm does not answer: {call[0]} took longer than {ASK_SECONDS:.0f} s. Try again later."
        ) from None
    if ran.returncode:
        said = (ran.stderr.strip().splitlines() or [f"exit code {ran.returncode}"])[-1]
        raise UserError(
            f"Slurm refuses: {said.rstrip('.')}. `sinfo` shows whether it is up and what it has; --partition and --slurm ask for something else."
        )
    return ran.stdout


def wanted(partition: str | None, options: list[str]) -> Slurm:
    """Return what a command line asks of Slurm, checked against what is here.

    Args:
        partition: its name, None for the default one; options: `key=value`, as sbatch takes them.
    Raises:
        UserError: when Slurm or submitit is not here, for an unknown partition, and for an option that bench sets itself.
    """
    limits = partitions()
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UserError(f"--engine slurm needs submitit, which cannot be imported here. Install: {INSTALL}") from None
    if partition is not None and partition not in limits:
        close = did_you_mean(partition, limits)
        raise UserError(f"Slurm has no partition {partition}.{close} Partitions: {', '.join(limits) or 'none'}.")
    given = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals or not key or key in ("partition", "job-name", "output", "error", "signal", "nodes", "ntasks"):
            raise UserError(
                f"--slurm {text}: give an option of sbatch that bench does not set itself, as key=value: account=lab, time=120."
            )
        given[key] = value
    longest = limits.get(partition or next(iter(limits), ""))
    length = given.get("time", "1")
    if not length.isdigit() or not 1 <= int(length) <= (longest or LONGEST_MINUTES):
        most = f", {longest} at most in that partition" if longest else ""
        raise UserError(f"--slurm time={length}: give whole minutes{most}.")  # Slurm itself would let it wait for ever
    return Slurm(partition=partition or "", options=given)


def check(asked: Slurm, gpus: int) -> None:
    """Let Slurm say whether it would take such a job, without submitting one.

    Args:
        gpus: of one trial; 0 for the CPU.
    Raises:
        UserError: with Slurm's reason.
    """
    options = asked.options | ({"partition": asked.partition} if asked.partition else {})
    options |= {"gpus-per-node": str(gpus)} if gpus else {}
    ask("sbatch", "--test-only", "--wrap=true", *(f"--{key}={value}" for key, value in options.items()))


def partitions() -> dict[str, int | None]:
    """Return Slurm's partitions with their time limits in minutes, None for no limit; the default one first."""
    found = {}
    for line in ask("sinfo", "--noheader", "--format=%R|%l|%P").splitlines():
        name, limit, mark = line.strip().split("|")
        found = {name: minutes(limit)} | found if mark.endswith("*") else found | {name: minutes(limit)}
    return found


def minutes(text: str) -> int | None:
    """Return a time limit of Slurm, `1-02:03:04`, `02:03:04` or `03:04`, in minutes; None for `infinite`."""
    if not text[:1].isdigit():
        return None
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    hours, mins, seconds = [0] * (3 - len(parts)) + parts
    return max(1, int(days or 0) * 1440 + hours * 60 + mins + math.ceil(seconds / 60))


class Cluster:
    """Slurm as the scheduler of one run sees it."""

    def __init__(self):
        self._states: dict[str, State] = {}
        self._looked = -math.inf
        self._limits: dict[str, int | None] | None = None

    def submit(self, queue: Queue, job: Job) -> Job:
        """Submit a job's next attempt and write its start. The log is locked meanwhile, so that the attempt finds its id there.

        Raises:
            UserError: when Slurm refuses; the job then waits as before.
        """
        with queue.locked() as file:
            job = queue.jobs[job.label]
            if job.state != QUEUED:
                return job
            number = self._submit(queue, job)
            self._looked = -math.inf
            return queue.write_locked(file, "start", job.label, device=f"{PREFIX}{number}")

    def _submit(self, queue: Queue, job: Job) -> str:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from elmanctl.queue.slurm_job import Attempt

        run, asked = queue.run.resolve(), job.spec.slurm
        if self._limits is None:
            self._limits = partitions()
        limit = self._limits.get(asked.partition or next(iter(self._limits), ""))
        length = int(asked.options.get("time") or limit or LONGEST_MINUTES)
        options = {key: value for key, value in asked.options.items() if key != "time"}
        executor = submitit.SlurmExecutor(run / job.spec.folder / "slurm", max_num_timeout=REQUEUES)
        executor.update_parameters(
            job_name=f"{run.name}:{job.label}",
            time=length,
            ntasks_per_node=1,
            signal_delay_s=min(SIGNAL_SECONDS, length * 15),
            additional_parameters={
                "requeue": True,
                **({"partition": asked.partition} if asked.partition else {}),
                **options,
            },
            **({} if job.spec.trial.device == "cpu" else {"gpus_per_node": job.spec.trial.ranks}),
        )
        try:
            return executor.submit(Attempt(), str(run), job.label).job_id
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            said = (str(error).strip().splitlines() or [""])[-1]
            raise UserError(
                f"Slurm refuses {job.label}: {said}. `runs cancel` and another --slurm may help."
            ) from error

    def state(self, number: str) -> State | None:
        """Return what Slurm says of a job; None where it does not know it any more.

        Raises:
            UserError: when Slurm does not answer; nothing is then known of any job.
        """
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            lines = ask("squeue", "--noheader", "--me", "--states=all", "--format=%i|%T|%R").splitlines()
            parts = [line.strip().split("|", 2) for line in lines]
            self._states = {number: State(state, detail.strip("()")) for number, state, detail in parts}
            self._looked = time.monotonic()
        return self._states.get(number)

    def withdraw(self, job: Job) -> bool:
        """Take an attempt that waits in Slurm out of it; False where it is past waiting there."""
        state = self.state(job.slurm)
        if state is None or not state.waits:
            return False
        self.cancel(job.slurm)
        return True

    def cancel(self, number: str) -> None:
        """Take a job out of Slurm; one that has ended already is left alone."""
        if shutil.which("scancel"):
            ask("scancel", "--quiet", number)
        self._looked = -math.inf
