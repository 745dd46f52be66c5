"""Slurm: the tasks as an array of jobs, in a script that a user can read, change and submit.

    .retrace/cluster/<hash of the tasks>/job.sh      the script
                                         tasks.json  its tasks, one for each job of the array
                                         0.log ...   what each job prints

Slurm requeues the job of a lost node and a preempted one; the script requeues itself before its
time limit. A requeued job resumes from the checkpoints in RETRACE_CHECKPOINTS.
"""

import hashlib
import json
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from retrace.cluster.task import Task
from retrace.errors import RetraceError
from retrace.system import files, isolated
from retrace.system.text import command

FOLDER = Path(".retrace/cluster")
SCRIPT = """\
#!/bin/bash
#SBATCH --job-name=retrace
#SBATCH --array=0-{last}
#SBATCH --output={log}
#SBATCH --requeue --open-mode=append
#SBATCH --signal=B:USR1@60
{options}
{experiments}

end() {{ kill -TERM $task; wait $task; }}
trap 'end; exit' TERM  # preempted or cancelled: only the former is requeued, by Slurm
trap 'end || exec scontrol requeue "$SLURM_JOB_ID"' USR1  # a minute before the time limit
{task} "$SLURM_ARRAY_TASK_ID" & task=$!
wait $task
"""


def write(tasks: Sequence[Task], options: Sequence[str]) -> Path:
    """Write the script and its tasks, and return the script's path.

    `options` are sbatch's own. The same tasks are written to the same folder.
    """
    content = json.dumps([asdict(task) for task in tasks], indent=1, sort_keys=True)
    folder = files.root() / FOLDER / hashlib.sha256(content.encode()).hexdigest()[:8]
    folder.mkdir(parents=True, exist_ok=True)
    with files.atomic(folder / "tasks.json") as unfinished:
        unfinished.touch(mode=0o600)  # it has the credentials of the remotes
        unfinished.write_text(content, encoding="utf-8")
    script = folder / "job.sh"
    with files.atomic(script) as unfinished:
        unfinished.write_text(_script(tasks, options, folder), encoding="utf-8")
    return script


def submit(script: Path) -> str:
    """Submit a script and return the number of its job. Raises RetraceError if Slurm refuses."""
    return _run("sbatch", "--parsable", str(script)).strip()


def n_machines() -> int | None:
    """Return how many machines Slurm has; None if there is no Slurm here."""
    try:
        return len(set(_run("sinfo", "--noheader", "--format=%n").split()))
    except RetraceError:
        return None


def _script(tasks: Sequence[Task], options: Sequence[str], folder: Path) -> str:
    flags = [[word for value in task.overrides for word in ("-S", value)] for task in tasks]
    experiments = [
        " ".join(f"# {number} {task.name} {shlex.join(words)}".split())
        for number, (task, words) in enumerate(zip(tasks, flags, strict=True))
    ]
    return SCRIPT.format(
        last=len(tasks) - 1,
        log=shlex.quote(str(folder).replace("%", "%%") + "/%a.log"),
        options=f"#SBATCH {shlex.join(options)}\n" if options else "",
        experiments="\n".join(experiments),
        task=shlex.join([*isolated.python("retrace.cluster.task"), str(folder / "tasks.json")]),
    )


def _run(*words: str) -> str:
    """Run one of Slurm's commands and return what it printed. Raises RetraceError if it fails."""
    try:
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        missing = f"there is no `{words[0]}` in PATH"
        raise RetraceError(f"{missing}; type this on a machine that has Slurm") from None
    if ended.returncode:
        reason = " ".join(ended.stderr.split())
        raise RetraceError(f"`{command(*words)}`: {reason}")
    return ended.stdout
