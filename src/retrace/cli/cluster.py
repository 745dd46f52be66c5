"""`retrace cluster`: run DVC experiments on several machines, and start the cluster for them."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrace.cli import dvc
from retrace.errors import RetraceError
from retrace.system import files
from retrace.system.text import command, count

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from retrace.cluster.ray_queue import Queue, State
    from retrace.cluster.task import Task

GROUP = "run"
SUMMARY = "run experiments on several machines: a Ray cluster, or Slurm"
EXAMPLES = (
    "retrace cluster start                   on the first machine",
    "retrace cluster join 10.0.0.1:6379      on each other one",
    "retrace cluster run -S lr=0.01,0.02     two experiments, where there is room",
    "retrace cluster run -S lr=0.01 --gpus 1 --detach",
    "retrace cluster status                  machines, and what runs on them",
    "retrace cluster slurm -S lr=0.01,0.02 --submit --sbatch --gpus=1",
)
POLL_S = 0.5
WIDTH = 120  # if stdout is not a terminal


def add_arguments(parser: ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    start = actions.add_parser("start", help="start a cluster with this machine as its first")
    text = "port that other machines connect to (default: %(default)s)"
    start.add_argument("--port", type=int, default=6379, help=text)
    join = actions.add_parser("join", help="make this machine a node of a cluster")
    join.add_argument("address", metavar="ADDRESS", help="HOST:PORT, as `start` prints it")
    for each in (start, join):
        text = "experiments' CPUs on this machine (default: all)"
        each.add_argument("--num-cpus", type=int, metavar="N", help=text)
        text = "experiments' GPUs on this machine (default: all)"
        each.add_argument("--num-gpus", type=int, metavar="N", help=text)
    status = actions.add_parser("status", help="show the machines, and what runs on them")
    text = "end this machine's part of the cluster, and what runs on it"
    stop = actions.add_parser("stop", help=text)
    for each in (start, join, status, stop):
        each.set_defaults(is_of_machine=True)  # not of a repository
    _add_run(actions)
    _add_slurm(actions)


def _add_run(actions: Any) -> None:
    run = actions.add_parser("run", help="run experiments on the cluster")
    add_experiments(run)
    text = "machines of an experiment, which compute --stage together (default: %(default)s)"
    run.add_argument("--nodes", type=int, default=1, metavar="N", help=text)
    run.add_argument("--stage", metavar="STAGE", help="the stage that --nodes machines compute")
    text = "GPUs of an experiment, on each of its machines (default: %(default)s)"
    run.add_argument("--gpus", type=int, default=0, metavar="N", help=text)
    text = "CPUs of an experiment, on each of its machines (default: %(default)s)"
    run.add_argument("--cpus", type=int, default=1, metavar="N", help=text)
    text = "start the experiments and return; the same command without it shows them"
    run.add_argument("--detach", action="store_true", help=text)


def _add_slurm(actions: Any) -> None:
    slurm = actions.add_parser("slurm", help="write a job script for Slurm, or submit it")
    add_experiments(slurm)
    text = "submit the script, instead of printing how to"
    slurm.add_argument("--submit", action="store_true", help=text)
    text = "options of sbatch for each experiment: all words to the end of the line"
    slurm.add_argument("--sbatch", nargs=REMAINDER, default=[], metavar="OPTION", help=text)


def add_experiments(parser: ArgumentParser) -> None:
    """Add what `dvc exp run --queue` takes, and the git remote that machines clone from."""
    parser.add_argument("targets", nargs="*", metavar="STAGE", help="stages (default: all)")
    text = "a value, or several: KEY=A,B makes an experiment for each"
    parser.add_argument(
        *("-S", "--set-param"),
        dest="overrides",
        action="append",
        default=[],
        metavar="[FILE:]KEY=VALUE",
        help=text,
    )
    text = "name of the experiment, or of several the prefix (default: from a hash of the values)"
    parser.add_argument("-n", "--name", metavar="NAME", help=text)
    text = "git remote to clone from and push to (default: %(default)s)"
    parser.add_argument("--git-remote", default="origin", metavar="NAME", help=text)


def run(args: Namespace) -> int | None:
    if args.action == "run":
        return run_experiments(args)
    if args.action == "slurm":
        from retrace.cli import cluster_slurm

        return cluster_slurm.run(args)
    return {"start": _start, "join": _join, "status": _status, "stop": _stop}[args.action](args)


def _start(args: Namespace) -> None:
    from retrace.cluster import nodes

    node = nodes.start(args.port, args.num_cpus, args.num_gpus)
    print(f"the cluster is up: {node.address}; on each other machine, with the same token:")
    print(f"  retrace cluster join {node.address}")
    print(f"the token: {nodes.token_file()} (copy it to the same place on each machine)")
    _print_firewall()


def _join(args: Namespace) -> None:
    from retrace.cluster import nodes

    nodes.join(args.address, args.num_cpus, args.num_gpus)
    print(f"this machine is a node of {args.address}; `retrace cluster stop` ends that")
    _print_firewall()


def _print_firewall() -> None:
    """Say who can connect: Ray has no option for it."""
    what = "Ray listens on all interfaces, and its token is sent unencrypted"
    print(f"warning: {what}; let a firewall close all ports to other networks", file=sys.stderr)


def _stop(_: Namespace) -> None:
    from retrace.cluster import nodes

    ended = nodes.stop()
    print(f"ended: {count(len(ended), 'node')} on this machine")


def _status(_: Namespace) -> None:
    from retrace.cluster import nodes, ray_queue

    nodes.demand_ray()
    with ray_queue.connected():
        print(f"cluster {nodes.address()}")
        for machine in ray_queue.machines():
            has = f"{count(machine['cpus'], 'CPU')}, {count(machine['gpus'], 'GPU')}"
            print(f"  {machine['host']} ({machine['address']}): {has}")
        free = ray_queue.free()
        print(f"free: {free['cpus']:g} CPUs, {free['gpus']:g} GPUs")
        for name, states in ray_queue.detached().items():
            n_ended = sum(state.has_ended for state in states)
            print(f"detached: {name}: {n_ended} of {len(states)} ended")


def run_experiments(args: Namespace) -> int:
    """Run the experiments; return 1 if one of them failed.

    Raises RetraceError, before anything runs, if the experiments cannot be run elsewhere.
    """
    from retrace.cluster import nodes, plan, ray_queue

    nodes.demand_ray()
    nodes.address()
    nodes.authenticated()
    dvc.exclude(files.root())  # what is written below is no change of the code
    tasks = plan.make_tasks(
        args.overrides, args.targets, args.name, args.git_remote, args.cpus, args.gpus
    )
    tasks = plan.together(tasks, args.nodes, args.stage)
    with ray_queue.connected():
        machines = ray_queue.machines()
        _check_size(machines, args)
        if len({machine["host"] for machine in machines}) > 1:
            for note in plan.check_reach(tasks[0]):
                print(f"note: {note}", file=sys.stderr)
        name = _queue_name(tasks)
        is_detached = args.detach or ray_queue.find(name)
        queue = ray_queue.Queue(tasks, name if is_detached else None)
        if args.detach:
            queue.states()
            print(f"{count(len(tasks), 'experiment')} started; {_again()} shows them")
            return 0
        try:
            states = _watch(tasks, queue)
        except nodes.HeadLostError:
            raise
        except BaseException:
            print("ending the experiments; the same command resumes them", file=sys.stderr)
            queue.cancel()
            raise
        queue.forget()
    return _report(tasks, states, args.git_remote)


def _check_size(machines: Sequence[dict[str, Any]], args: Namespace) -> None:
    """Raise RetraceError unless `--nodes` machines are large enough: Ray would wait for them."""
    for option, wanted, has in (("cpus", args.cpus, "CPUs"), ("gpus", args.gpus, "GPUs")):
        most = max(machine[option] for machine in machines)
        if not 0 <= wanted <= most:
            raise RetraceError(
                f"--{option} is {wanted}; should be 0 to {most}, the most {has} of one"
            )
    fitting = [each for each in machines if each["cpus"] >= args.cpus and each["gpus"] >= args.gpus]
    if not 1 <= args.nodes <= len(fitting):
        size = f"the machines with {count(args.cpus, 'CPU')} and {count(args.gpus, 'GPU')}"
        raise RetraceError(f"--nodes is {args.nodes}; should be 1 to {len(fitting)}, {size}")
    if args.nodes > 1 and not args.cpus + args.gpus:
        raise RetraceError("--cpus is 0; should be 1 or more with --nodes, unless with --gpus")


def _again() -> str:
    words = [word for word in sys.argv[1:] if word != "--detach"]
    return f"`{command('retrace', *words)}`"


def _queue_name(tasks: Sequence[Task]) -> str:
    """Return a name for these very tasks, by which the same command finds their queue."""
    digest = hashlib.sha256("".join(task.digest for task in tasks).encode()).hexdigest()[:8]
    more = f" and {len(tasks) - 1} more" if len(tasks) > 1 else ""
    return f"{tasks[0].name}{more} ({digest})"


def _watch(tasks: Sequence[Task], queue: Queue) -> list[State]:
    """Show the states until all experiments have ended; return the last ones."""
    from rich.live import Live

    console = _console()
    shown: list[tuple[str, str, int]] = []
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            states = queue.states()
            if console.is_terminal:
                live.update(_table(tasks, states), refresh=True)
            changes = [(state.status, state.node, state.attempts) for state in states]
            for number, state in enumerate(states):
                if not console.is_terminal and changes[number] not in shown[number : number + 1]:
                    console.print(_line(tasks[number], state))
            shown = changes
            if all(state.has_ended for state in states):
                return states
            time.sleep(POLL_S)


def _console() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _table(tasks: Sequence[Task], states: Sequence[State]) -> Table:
    from rich.table import Table

    table = Table("experiment", "values", "state", "machine", "time", box=None, pad_edge=False)
    for task, state in zip(tasks, states, strict=True):
        took = state.seconds or (time.time() - state.since if state.since else 0.0)
        values = " ".join(task.overrides)
        table.add_row(task.name, values, _status_of(state), state.node, f"{took:.0f} s")
    return table


def _status_of(state: State) -> str:
    retried = f", attempt {state.attempts}" if state.attempts > 1 else ""
    return f"{state.status}{retried}"


def _line(task: Task, state: State) -> str:
    where = f" on {state.node}" if state.node else ""
    took = f" ({state.seconds:.0f} s)" if state.seconds else ""
    values = " ".join(("", *task.overrides))
    return f"{task.name}{values}: {_status_of(state)}{where}{took}"


def _report(tasks: Sequence[Task], states: Sequence[State], remote: str) -> int:
    """Fetch the experiments, print the table, and the reason of each failure."""
    from retrace.cluster import plan

    done = [task for task, state in zip(tasks, states, strict=True) if state.status == "done"]
    plan.fetch(done)
    _console().print(_table(tasks, states))
    for task, state in zip(tasks, states, strict=True):
        if state.status == "failed":
            log = _write_log(task.name, state.output)
            lines = [line for line in state.output.splitlines() if line.strip()]
            print(f"{task.name} failed: {lines[-1] if lines else 'no output'}; {log}")
    if done:
        pull = command("dvc", "exp", "pull", remote, *(task.name for task in done))
        print(f"to fetch their files: {pull}")
    return 0 if len(done) == len(tasks) else 1


def _write_log(name: str, output: str) -> Path:
    log = files.root() / ".retrace/cluster" / f"{files.file_name(name)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(output, encoding="utf-8")
    return Path(os.path.relpath(log))
