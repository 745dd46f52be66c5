"""`retrace share`: send all results to DVC's remote, so that nobody else needs to compute them.

`dvc push` sends the cached outputs that dvc.lock lists. Even with `--run-cache` it leaves out the
results of other parameters, and the metrics and figures, which are in git; and it does not verify
what it sends. So a stage would run again for a member who uses the same parameters, and a file that
was damaged here would be passed on to everybody.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrace.errors import RetraceError
from retrace.system.redaction import redacted
from retrace.system.text import command, count

if TYPE_CHECKING:
    from retrace.pipeline.dvc_internals import Remote
    from retrace.pipeline.integrity import ExpectedFile

GROUP = "share"
SUMMARY = "send all results to DVC's remote for the team: each file is hashed first"
EXAMPLES = (
    "retrace share           before `dvc exp push origin NAME`, or `git push`",
    "retrace share --check   also check the files in the remote",
)
AT_ONCE = 8  # files that are read from the remote at the same time


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
    from retrace.pipeline import dvc_internals

    with _answering(), dvc_internals.opened() as repo, repo.lock:
        remote = dvc_internals.Remote(repo)
        entries = _entries(repo)
        hashes = _hashed(file for expected in entries.values() for file in expected)
        intact = {
            entry: expected
            for entry, expected in entries.items()
            if all(hashes[file] == file.md5 for file in expected)
        }
        files = list(dict.fromkeys(file for expected in intact.values() for file in expected))
        n_replaced = _clear(remote, files) if check else 0
        sent = _send(remote, files)
        remote.push_runs(intact)  # after their files, which they need
    _report(remote, intact, sent, f", {n_replaced} in place of damaged ones" if n_replaced else "")
    damaged = {file: md5 for file, md5 in hashes.items() if md5 not in (None, file.md5)}
    left_out = f"not shared: {count(len(entries) - len(intact), 'stage run')}"
    if damaged:
        state = "which does not match its name"
        named = "\n".join(
            f"{file.path} (part of {file.output}): its MD5 is {md5}, {state}"
            for file, md5 in damaged.items()
        )
        advice = "remove the damaged files, then run `dvc repro`"
        raise RetraceError(f"{named}\n{left_out}, because of damaged files here; {advice}")
    if len(entries) > len(intact):
        print(f"{left_out}, because of files that are no longer in DVC's cache")


def _report(
    remote: Remote, intact: dict[Path, list[ExpectedFile]], sent: list[ExpectedFile], replaced: str
) -> None:
    """Print what the remote has now, and what to type next."""
    from rich.filesize import decimal

    location = redacted(f"{remote.name}, {remote.address}")
    size = decimal(sum(file.path.stat().st_size for file in sent))
    n_runs = count(len(intact), "stage run")
    n_sent = count(len(sent), "file")
    print(f"{location}: {n_runs}; sent: {n_sent}{replaced}, {size}")
    print("to pass on an experiment: dvc exp push origin NAME; a commit: git push")
    print("In another clone, `dvc repro --pull` then fetches them and runs nothing")
    if not remote.is_verified:
        modify = command("dvc", "remote", "modify", remote.name, "verify", "true")
        remedy = f"run `{modify}` and commit it"
        print(f"warning: DVC does not hash the files that it gets from this remote; {remedy}")


def _entries(repo: Any) -> dict[Path, list[ExpectedFile]]:
    """Map each entry of DVC's run cache to the files that DVC's cache should contain for it."""
    from retrace.pipeline import dvc_internals, integrity

    cache = dvc_internals.objects().absolute()
    entries = {
        entry: [
            file
            for out in outs
            for file in integrity.expected_objects(cache, out["path"], out["md5"])
        ]
        for entry, outs in dvc_internals.cached_runs(repo)
    }
    if not entries:
        raise RetraceError("DVC's run cache is empty; run `dvc repro`")
    return entries


def _hashed(expected: Iterable[ExpectedFile]) -> dict[ExpectedFile, str | None]:
    """Return the MD5 of each file, None if it does not exist."""
    from retrace.pipeline import integrity

    def md5(file: ExpectedFile) -> str | None:
        return integrity.actual_md5(file) if file.path.exists() else None

    unique = list(dict.fromkeys(expected))
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        return dict(zip(unique, threads.map(md5, unique), strict=True))


def _clear(remote: Remote, files: list[ExpectedFile]) -> int:
    """Remove damaged files from the remote and return their number."""
    remote.clear_index()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return sum(threads.map(remote.remove_if_damaged, map(_oid, files)))


def _send(remote: Remote, files: list[ExpectedFile]) -> list[ExpectedFile]:
    """Send the files and return those that the remote lacked."""
    names, n_failed = remote.push(map(_oid, files))
    if n_failed:
        failed = f"{count(n_failed, 'file')} could not be sent (see above)"
        raise RetraceError(f"{failed}; run the command again to retry")
    return [file for file in files if _oid(file) in names]


def _oid(file: ExpectedFile) -> str:
    """Return DVC's name of a file in its cache."""
    return file.path.parent.name + file.path.name


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what DVC or its remote raises into a RetraceError of one line."""
    try:
        yield
    except RetraceError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__ == "builtins":
            raise  # a defect of retrace: remotes raise exceptions of their own, or OSError
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        message = f"DVC's remote: {reason}; fix this, then run the command again"
        raise RetraceError(redacted(message)) from None
