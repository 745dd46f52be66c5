"""`retrace cluster slurm`: write experiments as a job script of Slurm, and submit it."""

import os
import sys
from argparse import Namespace
from pathlib import Path

from retrace.cli import dvc
from retrace.cluster import plan, slurm
from retrace.system import files
from retrace.system.text import command, count


def run(args: Namespace) -> None:
    """Write the script, then submit it or print how to.

    Raises RetraceError, before anything is written, if the experiments cannot be run elsewhere.
    """
    tasks = plan.make_tasks(args.overrides, args.targets, args.name, args.git_remote)
    if slurm.n_machines() != 1:
        for note in plan.check_reach(tasks[0]):
            print(f"note: {note}", file=sys.stderr)
    dvc.exclude(files.root())
    script = slurm.write(tasks, args.sbatch)
    shown = Path(os.path.relpath(script, args.here))
    print(f"{count(len(tasks), 'experiment')} in {shown}; all machines must see its folder")
    if args.submit:
        job = slurm.submit(script)
        print(f"submitted: job {job}; to watch it: squeue --job {job}; to end it: scancel {job}")
    else:
        print(f"to submit it: {command('sbatch', shown)}")
    pull = command("dvc", "exp", "pull", args.git_remote, *(task.name for task in tasks))
    print(f"when it has ended: {pull}")
