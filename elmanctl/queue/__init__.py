"""The queue of a run: what survives the end of the terminal, the scheduler, a supervisor, a trial or the machine.

* states: the states of a job and every step between them, in one table.
* log: `events.jsonl` of a run, append-only and checksummed, which is the truth; whoever appends checks the step against it first.
* process: processes by pid, start and boot; ending whole trees.
* supervisor: one process for each attempt of a trial, in a session of its own; it alone starts, watches and settles the trial.
* settle: what an ended attempt means, and whether it is tried again.
* scheduler: which job goes where and why the others wait; adopts what an earlier scheduler left. It may die at any moment.
* slurm, slurm_engine, slurm_job: the same with Slurm in the place of this machine: what is asked of it, what the scheduler does with
  its jobs, and what such a job runs on its node.
* index: an SQLite index over all runs, rebuilt from the logs by one command.
"""
