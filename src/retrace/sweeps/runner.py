"""Run a sweep's trials, some at a time, until there are enough."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from retrace import errors, event_log
from retrace.errors import DataError, RetraceError
from retrace.pipeline import dvc_internals, overrides
from retrace.store import backend
from retrace.store import sweep_runs as shown
from retrace.sweeps import results, study, worktree
from retrace.sweeps.study import OVER, ClaimedTrial, Sweep
from retrace.sweeps.trial import TrialProcess

POLL_S = 0.3
TRIED = 3  # a sweep stops when so many first trials have all failed
WORDS = {TrialState.PRUNED: "pruned", TrialState.FAIL: "FAILED"}


@dataclass
class Running:
    """A running trial; closing `tree` deletes its repository."""

    claimed: ClaimedTrial
    attempt: TrialProcess
    tree: ExitStack
    signed: float = field(default_factory=time.monotonic)  # last heartbeat


class Runner:
    """Runs trials of a sweep, `jobs` at a time. None starts after `until`, on the monotonic clock."""

    def __init__(self, sweep: Sweep, jobs: int, until: float, say: Console) -> None:
        self.sweep, self.asked, self.jobs, self.until, self.say = (
            sweep,
            sweep.asked,
            jobs,
            until,
            say,
        )
        self.dataset = (self.asked.space.base | self.asked.space.fixed)["dataset"]
        self.origin, self.cache, self.store, self.began = (
            worktree.current_origin(),
            dvc_internals.cache().absolute(),
            backend.address(),
            event_log.now(),
        )
        self.running: list[Running] = []
        self.lacking: str | None = None  # why MLflow does not have all, if it has not

    def run(self) -> None:
        """Run trials until there are enough or time is up. Raises RetraceError where all fail.

        A signal stops the running ones; they resume when the sweep does.
        """
        worktree.remove_leftovers(self.asked.name)
        self.show(
            shown.begin, self.dataset, self.asked.name, self.asked.space.described(), self.began
        )
        self._print_count("")
        try:
            with self.say.status("") as status:
                while self._begin() or self.running:
                    status.update("  ".join(map(self._at, self.running)))
                    for each in list(self.running):
                        self._look(each)
                    time.sleep(POLL_S if self.running else 0.0)
        except BaseException:
            with errors.Deferred():
                self._leave()
            raise

    def show(self, tell: Callable[..., None], *what: Any) -> None:
        """Update MLflow; where it does not answer, keep the reason: no trial waits for a server."""
        try:
            with backend.answering():
                tell(*what)
        except RetraceError as error:
            self.lacking = str(error)

    def _begin(self) -> bool:
        """Start another trial; return whether there was one, or one with a known result."""
        if len(self.running) >= self.jobs or time.monotonic() > self.until:
            return False
        if (claimed := self.sweep.claim()) is None:
            return False
        if twin := self.sweep.twin(claimed):
            self._end(
                claimed, TrialState.COMPLETE, twin.value, experiment=twin.user_attrs["experiment"]
            )
            return True
        name = self.sweep.experiment(claimed.number)
        with ExitStack() as tree:
            grown = tree.enter_context(
                worktree.trial_repository(name, self.asked.name, self.origin, self.cache)
            )
            attempt = TrialProcess(name, self.asked.name, claimed.changes, grown, self.store)
            self.running.append(Running(claimed, attempt, tree.pop_all()))
        return True

    def _look(self, each: Running) -> None:
        """Report a trial's epochs; end it where it is hopeless or its process has ended."""
        attempt, over, why = (
            each.attempt,
            each.attempt.is_over,
            None,
        )  # read before the epochs, so none is missed
        for epoch, value in attempt.epochs(self.asked.metric):
            if self.sweep.is_hopeless(each.claimed, epoch, value) and not over:
                why = f"after epoch {epoch}, with {self.asked.metric} {value:.4f}: worse than three in four were then"
        if time.monotonic() - each.signed > study.ALIVE_S:
            self.sweep.alive(each.claimed)
            each.signed = time.monotonic()
        why = None if attempt.is_trained else why  # too late to save anything
        if why:
            attempt.prune(why)
        if over or why:
            self.running.remove(each)
            with each.tree:
                self._finish(each, why)
                self._stop_if_nothing_works()

    def _finish(self, each: Running, pruned: str | None) -> None:
        attempt, claimed = each.attempt, each.claimed
        took = f"{attempt.seconds:.0f}"
        try:
            commit = attempt.commit()
            found = results.read_result(commit, self.asked.metric, self.cache) if commit else None
        except DataError as error:
            self._end(claimed, TrialState.FAIL, reason=str(error), seconds=took)
            return
        if found:
            self.sweep.learn(claimed, found.curve)
            self.show(results.add_to_sweep, self.dataset, self.asked.name, found.key, self.began)
            self._end(
                claimed, TrialState.COMPLETE, found.value, experiment=attempt.name, seconds=took
            )
        elif pruned:
            self._end(claimed, TrialState.PRUNED, reason=pruned, seconds=took)
        else:
            reason = f"{attempt.reason()}; {attempt.log.relative_to(worktree.sweep_folder('').parent.parent)}"
            self._end(claimed, TrialState.FAIL, reason=reason, seconds=took)
            return
        attempt.log.unlink(missing_ok=True)

    def _end(
        self, claimed: ClaimedTrial, state: TrialState, value: float | None = None, **facts: str
    ) -> None:
        ended = self.sweep.end(claimed, state, value, **facts)
        self.say.print(self._line(ended))
        if state is TrialState.COMPLETE:
            self.show(
                shown.update,
                self.dataset,
                self.asked.name,
                self.sweep.n_over,
                *best(self.sweep),
                None,
            )

    def _line(self, trial: FrozenTrial) -> str:
        took = (
            f"{trial.user_attrs['seconds']} s"
            if "seconds" in trial.user_attrs
            else "the same as an earlier trial"
        )
        came_to = (
            f"{self.asked.metric} {trial.value:.4f}"
            if trial.state is TrialState.COMPLETE
            else WORDS[trial.state]
        )
        line = f"{self.sweep.experiment(trial.number)}  {came_to}  {parameters_text(self.sweep, trial)}  ({took})"
        if trial.state is not TrialState.COMPLETE:
            return f"{line}: {trial.user_attrs['reason']}"
        return (
            f"{line}, the best so far" if self.sweep.complete()[0].number == trial.number else line
        )

    def _at(self, each: Running) -> str:
        epochs = self.asked.space.values(each.claimed.changes)["epochs"]
        return f"{each.attempt.name}: epoch {each.attempt.epoch} of {epochs}"

    def _stop_if_nothing_works(self) -> None:
        over = [each for each in self.sweep.trials() if each.state in OVER]
        if len(over) >= min(TRIED, self.sweep.n_trials) and all(
            each.state is TrialState.FAIL for each in over
        ):
            why = over[-1].user_attrs.get("reason", "")
            raise RetraceError(
                f"{self.asked.name}: all of the first {len(over)} trials failed, the last: {why}"
            )

    def _leave(self) -> None:
        """Stop all trials of this process; they resume when the sweep does."""
        stopped = len(self.running)
        for each in self.running:
            with each.tree:
                each.attempt.stop()
        with suppress(RetraceError):  # without it others see that this process is gone
            for each in self.running:
                self.sweep.leave(each.claimed)
            self._print_count(
                f", {stopped} stopped half-way" * (stopped > 0) + "; the same command resumes"
            )

    def _print_count(self, more: str) -> None:
        self.say.print(
            f"{self.asked.name}: {self.sweep.n_over} of {self.sweep.n_trials} trials are done{more}"
        )


def best(sweep: Sweep) -> tuple[tuple[str, str, float | None], dict[str, str]]:
    """Return the best trial's experiment, metric and value, and its changes as `-S` takes them."""
    trial = sweep.complete()[0]
    changes = sweep.asked.space.changes(trial.params)
    said = {key: overrides.word(key, value) for key, value in changes.items()}
    return (trial.user_attrs["experiment"], sweep.asked.metric, trial.value), said


def parameters_text(sweep: Sweep, trial: FrozenTrial) -> str:
    """Return the searched parameters of a trial, as text."""
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in trial.params.items()
        if key in sweep.asked.space.axes
    )
