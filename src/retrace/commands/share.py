"""`retrace share`: DVC's remote has all that was made here, so that nobody else needs to make it.

`dvc push` sends what dvc.lock names and DVC caches. What other parameters made, and the metrics and pictures, which git
has, it leaves out even with `--run-cache`; and it reads nothing of what it sends. So a stage whose parameters somebody
else types again would run again, and a bit that flipped here would be everybody's.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from retrace import dvc_internals, integrity
from retrace.dvc_internals import Remote
from retrace.errors import RetraceError
from retrace.integrity import Claim
from retrace.redaction import redacted

AT_ONCE = 8  # files that are read from the remote


def share(*, check: bool) -> None:
    """The remote has each stage's run that DVC remembers here, with its files, every one hashed before; with `check`
    those that the remote had are hashed too, and what is damaged there is replaced. A second time nothing is sent.

    Raises RetraceError where there is no remote or it does not answer, and, all others being shared, where a file here
    is damaged.
    """
    with _answering(), dvc_internals.opened() as repo, repo.lock:
        remote, entries = Remote(repo), _entries(repo)
        found = _hashed(claim for claims in entries.values() for claim in claims)
        whole = {file: claims for file, claims in entries.items() if all(found[one] == one.md5 for one in claims)}
        files = list(dict.fromkeys(claim for claims in whole.values() for claim in claims))
        mended = _clear(remote, files) if check else 0
        sent = _send(remote, files)
        remote.push_runs(whole)  # after their files, without which they are worth nothing
    _tell(remote, whole, sent, f", {mended} in place of damaged ones" if mended else "")
    damaged = {claim: md5 for claim, md5 in found.items() if md5 not in (None, claim.md5)}
    left_out = f"not shared: {len(entries) - len(whole)} runs of stages"
    if damaged:
        named = "\n".join(
            f"{claim.path}: its MD5 is {md5}, not what its name says; of {claim.output}"
            for claim, md5 in damaged.items()
        )
        raise RetraceError(
            f"{named}\n{left_out}, whose files are damaged here; remove these, and `dvc repro` makes them again"
        )
    if len(entries) > len(whole):
        print(f"{left_out}, whose files are no more in DVC's cache")


def _tell(remote: Remote, whole: dict[Path, list[Claim]], sent: list[Claim], mended: str) -> None:
    """What is there now, and what to type next."""
    place = redacted(f"{remote.name}, {remote.address}")
    size = decimal(sum(claim.path.stat().st_size for claim in sent))
    print(f"{place}: {len(whole)} runs of stages; sent: {len(sent)} files{mended}, {size}")
    print(
        "`dvc exp push origin NAME` passes an experiment on, `git push` a commit; `dvc repro --pull` then runs nothing"
    )
    if not remote.is_verified:
        said = f"`dvc remote modify {remote.name} verify true`, committed, has everybody's hash it"
        print(f"warning: DVC trusts whatever this remote sends; {said}")


def _entries(repo: Any) -> dict[Path, list[Claim]]:
    """By its file, each run of a stage in DVC's run cache, with what DVC's cache should have of its outputs."""
    cache = dvc_internals.objects().absolute()
    found = {
        file: [claim for out in outs for claim in integrity.cached_claims(cache, out["path"], out["md5"])]
        for file, outs in dvc_internals.cached_runs(repo)
    }
    if not found:
        raise RetraceError("DVC's run cache: has no run of a stage; `dvc repro` makes some")
    return found


def _hashed(claims: Iterable[Claim]) -> dict[Claim, str | None]:
    """The MD5 that each file has; None where it is no more."""
    each = list(dict.fromkeys(claims))
    with ThreadPoolExecutor() as threads:  # hashing lets other threads run
        return dict(
            zip(
                each,
                threads.map(lambda one: integrity.actual_md5(one) if one.path.exists() else None, each),
                strict=True,
            )
        )


def _clear(remote: Remote, files: list[Claim]) -> int:
    """Nothing damaged is in the remote any more; returns how many files were."""
    remote.clear_index()
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return sum(threads.map(remote.remove_if_damaged, map(_oid, files)))


def _send(remote: Remote, files: list[Claim]) -> list[Claim]:
    """The remote has the files; returns those that it had not."""
    names, n_failed = remote.push(map(_oid, files))
    if n_failed:
        raise RetraceError(f"{n_failed} files did not arrive, for what is said above; type this again for these")
    return [claim for claim in files if _oid(claim) in names]


def _oid(claim: Claim) -> str:
    """DVC's name of a file in its cache."""
    return claim.path.parent.name + claim.path.name


@contextmanager
def _answering() -> Iterator[None]:
    """What DVC or its remote fails with is a RetraceError, in one line."""
    try:
        yield
    except RetraceError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__ == "builtins":
            raise  # a defect; but each kind of remote has errors of its own
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise RetraceError(redacted(f"DVC's remote: {said}; mend that, and type this again")) from None
