"""The processes of a command, which end with the process that they work for."""

import time
from contextlib import suppress

import psutil

from retrace.system import processes

WATCH_S = 1.0  # polling interval for the owner
GRACE_S = 2.0  # from SIGTERM to SIGKILL


class ProcessTree:
    """A command and all processes below it; `owner` is the process that they work for.

    DVC can no longer record outputs once it is killed, but its stage would go on to write them.
    """

    def __init__(self, pid: int, owner: processes.Identity | None) -> None:
        self.pid = pid
        self.owner = owner
        self._ending: list[psutil.Process] = []
        self._kill_at = 0.0
        self._check_at = time.monotonic() + WATCH_S

    def check(self) -> None:
        """Look at the owner, if it is time to; begin to end the tree if the owner is gone."""
        now = time.monotonic()
        if self.owner is None or now < self._check_at:
            return
        self._check_at = now + WATCH_S
        if not self._ending:
            if not processes.alive(self.owner):
                self._ending = self._members()
                self._kill_at = now + GRACE_S
                for process in self._ending:
                    with suppress(psutil.NoSuchProcess):
                        process.terminate()
        elif now >= self._kill_at:
            self._kill()

    def finish(self) -> None:
        """End the members that outlived the command, if their owner is gone."""
        if self._ending:
            psutil.wait_procs(self._ending, max(0.0, self._kill_at - time.monotonic()))
            self._kill()

    def _members(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.pid)
            return [first, *first.children(recursive=True)]
        return []

    def _kill(self) -> None:
        for process in {*self._ending, *self._members()}:
            with suppress(psutil.NoSuchProcess):
                process.kill()
