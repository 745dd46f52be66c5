"""`retrace share`: send all results to DVC's remote, so that nobody else needs to compute them.

`dvc push` sends what dvc.lock names and DVC caches. Even with `--run-cache` it leaves out the
results of other parameters, and the metrics and figures, which git has; and it does not check what
it sends. So a stage would run again for somebody who types the same parameters, and a bit that
flipped here would reach everybody.
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

if TYPE_CHECKING:
    from retrace.pipeline.dvc_internals import Remote
    from retrace.pipeline.integrity import Claim

GROUP = "share"
SUMMARY = "send all results to DVC's remote for the team: each file is hashed before"
EXAMPLES = (
    "retrace share           before `dvc exp push origin NAME`, or `git push`",
    "retrace share --check   is everything in the remote intact?",
)
AT_ONCE = 8  # files that are read from the remote


def add_arguments(parser: ArgumentParser) -> None:
    text = "hash what the remote has as well, and replace what is damaged there"
    parser.add_argument("--check", action="store_true", help=text)


def run(args: Namespace) -> None:
    share(check=args.check)


def share(*, check: bool) -> None:
    """Send each stage's run in DVC's run cache, with its files, hashing every file before.

    With `check`, hash the remote's files too and replace damaged ones. A second time nothing is
    sent. Raises RetraceError if there is no remote or it does not answer; and, after sharing all
    others, if a file here is damaged.
    """
    from retrace.pipeline import dvc_internals

    with _answering(), dvc_internals.opened() as repo, repo.lock:
        remote = dvc_internals.Remote(repo)
        entries = _entries(repo)
        found = _hashed(claim for claims in entries.values() for claim in claims)
        whole = {
            file: claims
            for file, claims in entries.items()
            if all(found[one] == one.md5 for one in claims)
        }
        files = list(dict.fromkeys(claim for claims in whole.values() for claim in claims))
        mended = _clear(remote, files) if check else 0
        sent = _send(remote, files)
        remote.push_runs(whole)  # after their files, without which they are worth nothing
    _report(remote, whole, sent, f", {mended} in place of damaged ones" if mended else "")
    damaged = {claim: md5 for claim, md5 in found.items() if md5 not in (None, claim.md5)}
    left_out = f"not shared: {len(entries) - len(whole)} runs of stages"
    if damaged:
        named = "\n".join(
            f"{claim.path}: its MD5 is {md5}, not what its name says; of {claim.output}"
            for claim, md5 in damaged.items()
        )
        raise RetraceError(
            f"{named}\n{left_out}, as their files are damaged here; remove these, then `dvc repro`"
        )
    if len(entries) > len(whole):
        print(f"{left_out}, whose files are no more in DVC's cache")


def _report(remote: Remote, whole: dict[Path, list[Claim]], sent: list[Claim], mended: str) -> None:
    """Print what the remote has now, and what to type next."""
    from rich.filesize import decimal

    place = redacted(f"{remote.name}, {remote.address}")
    size = decimal(sum(claim.path.stat().st_size for claim in sent))
    print(f"{place}: {len(whole)} runs of stages; sent: {len(sent)} files{mended}, {size}")
    print("to pass on an experiment: dvc exp push origin NAME; a commit: git push")
    print("`dvc repro --pull` then runs nothing")
    if not remote.is_verified:
        said = f"`dvc remote modify {remote.name} verify true`, committed, has everybody's hash it"
        print(f"warning: DVC trusts whatever this remote sends; {said}")


def _entries(repo: Any) -> dict[Path, list[Claim]]:
    """Map each entry of DVC's run cache to the files that DVC's cache should have of it."""
    from retrace.pipeline import dvc_internals, integrity

    cache = dvc_internals.objects().absolute()
    entries = {
        file: [
            claim
            for out in outs
            for claim in integrity.cached_claims(cache, out["path"], out["md5"])
        ]
        for file, outs in dvc_internals.cached_runs(repo)
    }
    if not entries:
        raise RetraceError("DVC's run cache: has no run of a stage; `dvc repro` makes some")
    return entries


def _hashed(claims: Iterable[Claim]) -> dict[Claim, str | None]:
    """Return the MD5 of each file, None if it is gone."""
    from retrace.pipeline import integrity

    each = list(dict.fromkeys(claims))
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        return dict(
            zip(
                each,
                threads.map(
                    lambda one: integrity.actual_md5(one) if one.path.exists() else None, each
                ),
                strict=True,
            )
        )


def _clear(remote: Remote, files: list[Claim]) -> int:
    """Remove damaged files from the remote and return their number."""
    remote.clear_index()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return sum(threads.map(remote.remove_if_damaged, map(_oid, files)))


def _send(remote: Remote, files: list[Claim]) -> list[Claim]:
    """Send the files and return those that the remote lacked."""
    names, n_failed = remote.push(map(_oid, files))
    if n_failed:
        raise RetraceError(
            f"{n_failed} files did not arrive, for the reasons above; type this again for these"
        )
    return [claim for claim in files if _oid(claim) in names]


def _oid(claim: Claim) -> str:
    """Return DVC's name of a file in its cache."""
    return claim.path.parent.name + claim.path.name


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what DVC or its remote raises into a RetraceError of one line."""
    try:
        yield
    except RetraceError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__ == "builtins":
            raise  # a defect; but each kind of remote has errors of its own
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise RetraceError(
            redacted(f"DVC's remote: {said}; mend that, and type this again")
        ) from None
