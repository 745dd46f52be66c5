"""`retrace share`: send all results to DVC's remote, so that nobody else needs to compute them.

`dvc push` sends the cached outputs that dvc.lock lists. Even with `--run-cache` it leaves out the
results of other parameters, and the metrics and figures, which are in git; and it does not verify
what it sends. So a stage would run again for a member who uses the same parameters, and a file that
was damaged here would be passed on to everybody.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from retrace.errors import RetraceError
from retrace.system.redaction import redacted
from retrace.system.text import command, count

if TYPE_CHECKING:
    from retrace.pipeline.sharing import Shared

GROUP = "share"
SUMMARY = "send all results to DVC's remote for the team: each file is hashed first"
EXAMPLES = (
    "retrace share           before `dvc exp push origin NAME`, or `git push`",
    "retrace share --check   also check the files in the remote",
)


def add_arguments(parser: ArgumentParser) -> None:
    text = "also hash the files in the remote, and replace damaged ones"
    parser.add_argument("--check", action="store_true", help=text)


def run(args: Namespace) -> None:
    share(check=args.check)


def share(*, check: bool) -> None:
    """Send the stage runs in DVC's run cache, with their files; hash every file first.

    With `check`, hash the remote's files too and replace damaged ones. Running it again sends
    nothing. Raises RetraceError if there is no remote or it does not answer; and, after sharing all
    others, if a file here is damaged.
    """
    from retrace.pipeline import sharing

    shared = sharing.share(check=check)
    _report(shared)
    left_out = f"not shared: {count(shared.left_out, 'stage run')}"
    if shared.damaged:
        state = "which does not match its name"
        named = "\n".join(
            f"{file.path} (part of {file.output}): its MD5 is {md5}, {state}"
            for file, md5 in shared.damaged.items()
        )
        advice = "remove the damaged files, then run `dvc repro`"
        raise RetraceError(f"{named}\n{left_out}, because of damaged files here; {advice}")
    if shared.left_out:
        print(f"{left_out}, because of files that are no longer in DVC's cache")


def _report(shared: Shared) -> None:
    """Print what the remote has now, and what to type next."""
    from rich.filesize import decimal

    remote = shared.remote
    location = redacted(f"{remote.name}, {remote.address}")
    size = decimal(sum(file.path.stat().st_size for file in shared.sent))
    n_runs = count(len(shared.intact), "stage run")
    n_sent = count(len(shared.sent), "file")
    replaced = f", {shared.n_replaced} in place of damaged ones" if shared.n_replaced else ""
    print(f"{location}: {n_runs}; sent: {n_sent}{replaced}, {size}")
    print("to pass on an experiment: dvc exp push origin NAME; a commit: git push")
    print("In another clone, `dvc repro --pull` then fetches them and runs nothing")
    if not remote.is_verified:
        modify = command("dvc", "remote", "modify", remote.name, "verify", "true")
        remedy = f"run `{modify}` and commit it"
        print(f"warning: DVC does not hash the files that it gets from this remote; {remedy}")
