"""Send stage runs of DVC's run cache, with their files, to DVC's remote; hash each file first."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from retrace.errors import RetraceError
from retrace.pipeline import dvc_internals, integrity
from retrace.pipeline.dvc_internals import Remote
from retrace.pipeline.integrity import ExpectedFile
from retrace.system.redaction import redacted
from retrace.system.text import count

AT_ONCE = 8  # files that are read from the remote at the same time

Entries = dict[Path, list[ExpectedFile]]  # stage runs, and the files that belong to each


class Shared(NamedTuple):
    """What was sent to the remote, and what was not."""

    remote: Remote
    intact: Entries
    sent: list[ExpectedFile]
    n_replaced: int  # damaged files in the remote
    left_out: int  # stage runs with files that are damaged or gone
    damaged: dict[ExpectedFile, str]  # by the MD5 that each has


def share(*, check: bool = False, only_new: bool = False) -> Shared:
    """Send the stage runs in DVC's run cache, with their files; hash every file first.

    With `check`, hash the remote's files too and replace damaged ones. With `only_new`, pass over
    stage runs that the remote has. Raises RetraceError if there is no remote or it does not answer.
    """
    with _answering(), dvc_internals.opened() as repo, repo.lock:
        remote = Remote(repo)
        entries = _entries(repo)
        if only_new:
            entries = {entry: entries[entry] for entry in remote.missing_runs(entries)}
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
    damaged = {file: md5 for file, md5 in hashes.items() if md5 and md5 != file.md5}
    return Shared(remote, intact, sent, n_replaced, len(entries) - len(intact), damaged)


def _entries(repo: Any) -> Entries:
    """Map each entry of DVC's run cache to the files that DVC's cache should contain for it."""
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
