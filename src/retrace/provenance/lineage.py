"""Trace a file or run as a tree: back to the raw data, and to the locations of its files now."""

import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.tree import Tree

from retrace import event_log
from retrace.errors import RetraceError
from retrace.pipeline import git, hashing, snapshot
from retrace.pipeline.workspace import Workspace
from retrace.provenance import locations, trace_document
from retrace.provenance.locations import Output
from retrace.provenance.run_index import RunIndex
from retrace.store import backend, cached_stages, run_tags
from retrace.system.text import command, count

MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@backend.mlflow_errors()
def show(target: str, *, as_json: bool = False) -> None:
    """Print which run made the file `target`, or the file with this MD5.

    For a run, print its outputs, where they are, and the commands that restore them. Raises
    RetraceError if `target` is none of these, if no run made the file, or if the store does not
    answer.
    """
    index = RunIndex()
    file = Path(target)
    if os.path.exists(file):  # noqa: PTH110 - False if the name is too long
        _show_file(index, _inside(file), hashing.md5(file), as_json=as_json)
    elif run := index.run(target):
        _show_run(index, run, as_json=as_json)
    elif MD5.fullmatch(target) and (makers := index.makers(target)):
        _show_file(index, run_tags.made(makers[0])[target], target, as_json=as_json)
    else:
        if reason := index.deleted(target):
            raise RetraceError(reason)
        problem = f"neither a file nor a run in {index.address}"
        advice = "give a file, or at least 6 digits of a run's id"
        raise RetraceError(f"{target}: {problem}; {advice}{_pending()}")


class Account:
    """A tree that describes each run and each experiment once, and then says "as above"."""

    def __init__(self, index: RunIndex) -> None:
        self.index = index
        self.described: set[str] = set()

    def grow(self, tree: Tree, run: backend.Run, others: int = 0) -> None:
        """Add the run, its dependencies, the runs that made those, and so on.

        `others` is the number of other runs that made the same bytes.
        """
        if run.info.run_id in self.described:
            tree.add(f"{title(run)}, as above")
            return
        self.described.add(run.info.run_id)
        node = tree.add(title(run))
        if others:
            node.add(f"{count(others, 'other run')} made the same bytes")
        self.add_facts(node, run)
        deps = cached_stages.hashes(run, "deps")
        makers: dict[str, backend.Run] = {}
        read = defaultdict[str, list[str]](list)
        code: dict[str, str] = {}
        data = git.untracked(deps) | set(filter(self.index.pipeline.is_data, deps))
        for path, md5 in deps.items():
            maker = self.index.maker(path, md5, run.data.tags.get("mlflow.parentRunId"))
            if maker is None and path not in data:
                code[path] = md5
                continue
            makers |= {maker.info.run_id: maker} if maker else {}
            unknown = "" if maker or self.is_source(path) else ", not produced by any run in MLflow"
            read[maker.info.run_id if maker else ""].append(f"read {path}  {md5}{unknown}")
        node.add(_code(code))
        for maker, files in read.items():
            branch = node.add("\n".join(files))
            if maker:
                self.grow(branch, makers[maker])

    def is_source(self, path: str) -> bool:
        """Return whether no stage of the pipeline makes `path`, so that no run can."""
        return path in self.index.pipeline.leaves

    def add_facts(self, node: Tree, run: backend.Run) -> None:
        """Add the run's experiment, code, parameters, time, user and machine to the node."""
        tags = run.data.tags
        changed = (
            ", with changes: its artifact code.patch"
            if locations.has_patch(self.index.client, run)
            else ""
        )
        node.add(self._experiment(run))
        node.add(f"commit {tags.get('mlflow.source.git.commit', 'unknown')}{changed}")
        for what, why in run_tags.lost(run).items():
            node.add(f"not recorded: {what}: {why}")
        node.add(_circumstances(run))
        if run.data.params:
            node.add(
                "parameters "
                + ", ".join(f"{name}={value}" for name, value in run.data.params.items())
            )
        if "retrace.error" in tags:
            node.add(f"error {tags['retrace.error']}")
        if "retrace.source" in tags:  # of a stage that downloads
            outs = cached_stages.hashes(run, "outs")
            hashes = {path: md5 for md5, path in run_tags.made(run).items() if path not in outs}
            files = [f"{path}  {md5}" for path, md5 in sorted(hashes.items())]
            node.add("\n".join([f"from {tags['retrace.source']}", *files]))

    def standing(self, parent: backend.Run) -> str:
        """Return the experiment's names in MLflow, retrace and DVC."""
        tags = parent.data.tags
        names = [
            f"in MLflow under {self.index.client.get_experiment(parent.info.experiment_id).name}"
        ]
        names += [f"key {tags['retrace.key']}"]
        if "dvc.exp_name" in tags:
            names += [f"DVC experiment {tags['dvc.exp_name']}"]
            names += [f"based on commit {tags.get('dvc.baseline_rev')}"]
        if "dvc.exp_rev" in tags:
            names += [f"committed as {tags['dvc.exp_rev']}"]
        return ", ".join(names)

    def _experiment(self, run: backend.Run) -> str:
        parent = self.index.parent(run)
        if parent is None:
            parent_id = run.data.tags.get("mlflow.parentRunId")
            again = "`retrace sync` adds it again if DVC still has it"
            return f"of experiment run {parent_id}, which was deleted from MLflow; {again}"
        name = f"of experiment {parent.info.run_name}, run {parent.info.run_id}"
        if parent.info.run_id in self.described:
            return f"{name}, as above"
        self.described.add(parent.info.run_id)
        return f"{name}\n{self.standing(parent)}"


def title(run: backend.Run) -> str:
    """Return a run's name, id and status."""
    return f"{run.info.run_name}, run {run.info.run_id}: {run.info.status}"


def _show_file(index: RunIndex, path: str, md5: str, *, as_json: bool) -> None:
    """Print the file, the run that made it, its dependencies, and so on.

    Raises RetraceError if no run made it.
    """
    run = index.maker(path, md5)
    if run is None:
        raise RetraceError(_unknown(index, path, md5))
    if as_json:
        print(json.dumps(trace_document.file_document(index, path, md5, run), indent=2))
        return
    tree = Tree(f"{path}  {md5}")
    Account(index).grow(tree, run, others=len(index.makers(md5)) - 1)
    here = snapshot.read(Path()) if md5 in _locked().values() else None
    own = (
        backend.first(index.client, index.experiments, {"retrace.key": here.key}) if here else None
    )
    if own and own.info.run_id != run.data.tags.get("mlflow.parentRunId"):
        tree.add(
            "in the workspace it is a result of "
            f"experiment {own.info.run_name}, run {own.info.run_id}"
        )
    _print(tree)


def _unknown(index: RunIndex, path: str, md5: str) -> str:
    """Return that no run made the file, and what to trace instead."""
    problem = f"{path}: no run in {index.address} made this file (MD5 {md5})"
    for out, other in _locked().items():
        if (path == out and md5 != other) or (
            path.startswith(f"{out}/") and hashing.md5(Path(out)) != other
        ):
            lists = f"dvc.lock lists {out} with the MD5 {other}"
            advice = f"`retrace trace {other}` traces that version"
            return f"{problem}; {lists}; {advice}{_pending()}"
    if below := [out for out in _locked() if out.startswith(f"{path}/")]:
        return f"{problem}; trace the outputs in it: {', '.join(below)}"
    return f"{problem}; only outputs of stages can be traced{_pending()}"


def _show_run(index: RunIndex, run: backend.Run, *, as_json: bool) -> None:
    if not run.data.tags.keys() & {"retrace.key", "retrace.stage"}:
        problem = "is neither an experiment nor a stage; trace one of its child runs"
        raise RetraceError(f"run {run.info.run_id} {problem}")
    account = Account(index)
    tree = Tree(title(run))
    script: list[str] = []
    into = f"traced-{run.info.run_id[:8]}"
    if as_json:
        print(json.dumps(trace_document.run_document(index, run, into), indent=2))
        return
    if "retrace.key" in run.data.tags:
        account.described.add(run.info.run_id)
        tree.add(account.standing(run))
    for stage in index.stages(run):
        node = tree if stage is run else tree.add(title(stage))
        account.add_facts(node, stage)
        script += _add_files(node, index, stage, into)
    _print(tree)
    if script:
        print(
            f"\n# To restore them into {into}:",
            command("cd", Path.cwd()),
            *script,
            sep="\n",
        )
    for ref in git.experiments():
        if ref.rev == run.data.tags.get("dvc.exp_rev"):
            apply = command("dvc", "exp", "apply", ref.name)
            print(f"# or all into the workspace: {apply}")


def _add_files(node: Tree, index: RunIndex, run: backend.Run, into: str) -> list[str]:
    """Add the files of a stage's run and their locations; return the commands that restore them."""
    parent = index.parent(run)
    outs = cached_stages.hashes(run, "outs")
    rev = parent.data.tags.get("dvc.exp_rev") if parent else None
    script: list[str] = []
    lost: list[str] = []
    if not outs:
        node.add("it has no recorded outputs")
    for path, md5 in outs.items():
        copies = locations.locate(index.client, Output(path, md5, run.info.run_id, rev), into)
        node.add(f"{path}  {md5}  {', '.join(copies.names) or 'not found'}")
        script += copies.commands
        lost += [] if copies.names else [path]
    if lost:
        commands = locations.reproduce_commands(index.client, run, rev)
        remedy = "to reproduce them:" if commands else "the commit of its code no longer exists"
        script += [f"# not found: {', '.join(lost)}; {remedy}", *commands]
    return script


def _circumstances(run: backend.Run) -> str:
    """Return when and how long a stage ran, by whom and on which machine."""
    tags = run.data.tags
    began = datetime.fromtimestamp(run.info.start_time / 1000).astimezone()
    if run_tags.value(tags, "machine") is None:  # dvc.lock does not say when a stage ran
        return f"committed {began:%Y-%m-%d %H:%M:%S %z}, by {tags.get('mlflow.user')}"
    facts = [f"{began:%Y-%m-%d %H:%M:%S %z}"]
    facts += (
        [f"{(run.info.end_time - run.info.start_time) / 1000:.1f} s"] if run.info.end_time else []
    )
    facts += [f"by {tags.get('mlflow.user')} on {run_tags.value(tags, 'machine')}"]
    return ", ".join(facts + ([tags["retrace.device"]] if "retrace.device" in tags else []))


def _code(deps: Mapping[str, str]) -> str:
    """Return the number of code files, and which of them have changed."""
    changed = [
        path
        for path, md5 in deps.items()
        if not Path(path).exists() or hashing.md5(Path(path), has_bytecode=False) != md5
    ]
    return f"{count(len(deps), 'code file')}, " + (
        f"changed here: {', '.join(changed)}" if changed else "same here"
    )


def _locked() -> dict[str, str]:
    """Return the MD5 of each output in dvc.lock, by path."""
    return Workspace(Path()).recorded


def _inside(file: Path) -> str:
    """Return the path as recorded in runs: relative to the repository."""
    path = Path(os.path.normpath(file.absolute()))
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _pending() -> str:
    n = len(event_log.pending(event_log.folder()))
    if not n:
        return ""
    logs = count(n, "event log is", "event logs are")
    return f"; {logs} not in MLflow yet: run `retrace sync`, then try again"


def _print(tree: Tree) -> None:
    """Print the tree. Lines are not wrapped in a pipe, and text is never read as markup."""
    width = None if sys.stdout.isatty() else 10_000
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as captured:  # printed below: rich itself exits if a pipe is closed
        console.print(tree)
    print(captured.get(), end="")
