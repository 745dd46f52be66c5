"""Start git so that no user's configuration or environment changes what it reads or writes.

All calls of git pass through here. SETTINGS override the configuration of the system, the user
and the repository. Of git's variables only those in KEPT are passed on: a git hook sets others,
such as GIT_DIR, which would lead git to another repository.
"""

import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retrace.errors import RetraceError

SETTINGS = (
    "apply.ignoreWhitespace=no",
    "color.ui=false",
    f"core.attributesFile={os.devnull}",
    "core.autocrlf=false",  # patches have the bytes of the work tree
    "core.eol=lf",
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    "core.quotePath=false",
    "core.safecrlf=false",
    "core.splitIndex=false",
    "core.untrackedCache=false",
    "diff.renames=false",
    "fetch.prune=false",
    "fetch.recurseSubmodules=false",
    "gc.auto=0",
    "i18n.logOutputEncoding=UTF-8",
    "log.follow=false",
    "log.showSignature=false",
    "maintenance.auto=false",
    "protocol.file.allow=always",  # experiments are fetched from a folder
    "submodule.recurse=false",
)
# Where the configuration is, where git looks for a repository, and how it connects to a remote.
KEPT = (
    *("GIT_CONFIG", "GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM", "GIT_EXEC_PATH"),
    *("GIT_TEST", "GIT_SSH", "GIT_ASKPASS", "GIT_SSL", "GIT_HTTP", "GIT_PROXY"),
)
SET = {
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",  # a stage would wait for a password
    "LC_ALL": "C",  # messages in English
}
CHECKSUMS = (("sha1", 20), ("sha256", 32))  # or zeros, where git has `index.skipHash`
NOT_STARTED = 127
OUTSIDE = "not a git repository (or any"
BOUNDARY = "Stopping at filesystem boundary"
CURES = (
    (r"dubious ownership in repository at '(.+?)'", "git config --global --add safe.directory {}"),
    (r"unsafe repository \('(.+?)'", "git config --global --add safe.directory {}"),
    (r"bad config .*in file '?(.+?)'?(?: at line \d+)?(?:$|;| fatal)", "${{EDITOR:-vi}} {}"),
    (r"(index file|bad signature|bad index|index uses)", "rm {index} && git reset --quiet"),
    (r"(bad object|unable to read|Not a valid object name) ", "git fetch --refetch"),
)


@dataclass(frozen=True)
class Refusal:
    """Why git does not read a repository, and the command that mends it, if it is known."""

    reason: str
    cure: str | None = None

    def __str__(self) -> str:
        return self.reason + (f"; to mend it: `{self.cure}`" if self.cure else "")


def command(*words: str) -> list[str]:
    """Return the command line that runs git with our settings."""
    settings = (word for setting in SETTINGS for word in ("-c", setting))
    return ["git", "--no-pager", *settings, *words]


def environment() -> dict[str, str]:
    """Return this process's environment for git."""
    variables = os.environ.items()
    kept = {n: value for n, value in variables if not n.startswith("GIT_") or n.startswith(KEPT)}
    return kept | SET


def run(
    *words: str,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
) -> bytes:
    """Run git and return what it printed. Raises RetraceError with git's message.

    `env` has more variables.
    """
    ended = completed(*words, folder=folder, env=env, stdin=stdin)
    if ended.returncode == NOT_STARTED:
        raise RetraceError(_message(ended))
    if ended.returncode:
        name = words[2] if words[0] == "-C" else words[0]
        raise RetraceError(
            f"git {name} failed with exit code {ended.returncode}: {_message(ended)}"
        )
    return ended.stdout


def output(*words: str) -> str | None:
    """Return what git printed, stripped; None if it failed, for example outside a repository."""
    printed = raw_output(*words)
    return None if printed is None else printed.decode(errors="replace").strip()


def raw_output(*words: str, env: Mapping[str, str] | None = None) -> bytes | None:
    """Return the bytes that git printed; None if it failed."""
    ended = completed(*words, env=env)
    return None if ended.returncode else ended.stdout


def completed(
    *words: str,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
) -> subprocess.CompletedProcess[bytes]:
    """Run git to its end. If it cannot be started, the exit code is NOT_STARTED."""
    line = command(*words)
    variables = environment() | dict(env or {})
    try:
        return subprocess.run(
            line, cwd=folder, env=variables, input=stdin, capture_output=True, check=False
        )
    except OSError as error:
        if error.filename != line[0]:  # the folder
            raise
        reason = f"git cannot be started ({error.strerror}); install it, or add it to PATH"
        return subprocess.CompletedProcess(line, NOT_STARTED, b"", reason.encode())


def refusal(folder: Path | None = None) -> Refusal | None:
    """Return why git does not read the repository that a folder is in.

    None if it reads it, and outside a repository. Its commit and its index are read too.
    """
    folder = folder or Path.cwd()
    located = completed("rev-parse", "--git-dir", folder=folder)
    if located.returncode:
        return _not_located(folder, _message(located))
    if is_damaged(_index(folder)):
        return _refusal("index file corrupt", folder)
    for words in (("ls-files", "--", ":(top,literal).git"), ("cat-file", "-e", "HEAD^{tree}")):
        ended = completed(*words, folder=folder)
        if ended.returncode and (words[0] == "ls-files" or not _is_unborn(folder)):
            return _refusal(_message(ended), folder)
    return None


def is_outside(folder: Path) -> bool:
    """Return whether a folder is in no repository."""
    located = completed("rev-parse", "--git-dir", folder=folder)
    return bool(located.returncode) and _not_located(folder, _message(located)) is None


def _not_located(folder: Path, message: str) -> Refusal | None:
    """Return why git did not find a repository; None if there is none."""
    above = (folder.absolute(), *folder.absolute().parents)
    repository = next((each / ".git" for each in above if (each / ".git").exists()), None)
    if repository is None:
        return None
    if OUTSIDE not in message:
        return _refusal(message, folder)
    direct = completed("--git-dir", str(repository), "rev-parse", "--git-dir", folder=folder)
    if direct.returncode:
        return Refusal(f"git: {repository} is damaged: {_message(direct)}")
    if BOUNDARY in message:
        reason = f"git: {repository} is on another file system"
        return Refusal(reason, "export GIT_DISCOVERY_ACROSS_FILESYSTEM=1")
    return None  # above GIT_CEILING_DIRECTORIES


def _index(folder: Path) -> Path:
    located = completed("rev-parse", "--git-path", "index", folder=folder)
    return folder / os.fsdecode(located.stdout).rstrip("\n")


def is_damaged(index: Path) -> bool:
    """Return whether the index lacks its checksum at the end, which git itself does not check."""
    data = index.read_bytes() if index.exists() else b""
    sums = [(data[-n:], hashlib.new(name, data[:-n]).digest()) for name, n in CHECKSUMS]
    return bool(data) and all(given not in (bytes(len(own)), own) for given, own in sums)


def _is_unborn(folder: Path) -> bool:
    """Return whether HEAD is a branch without a commit."""
    branch = completed("symbolic-ref", "--quiet", "HEAD", folder=folder)
    name = os.fsdecode(branch.stdout).strip()
    return bool(name) and completed("show-ref", "--quiet", name, folder=folder).returncode == 1


def _refusal(message: str, folder: Path) -> Refusal:
    reason = f"git: {message.partition(' To add an exception')[0].removeprefix('fatal: ')}"
    for pattern, cure in CURES:
        if match := re.search(pattern, message):
            index = shlex.quote(str(_index(folder)))
            return Refusal(reason, cure.format(shlex.quote(match[1]), index=index))
    return Refusal(reason)


def _message(ended: subprocess.CompletedProcess[bytes]) -> str:
    """Return what git wrote to stderr, in one line."""
    return " ".join(ended.stderr.decode(errors="replace").split()) or "no message"
