"""Trials, one after another or some at a time, until there are enough."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from retrace import dvc_internals, errors, journal, overrides
from retrace.errors import DataError, RetraceError
from retrace.sweeps import results, studies, trees
from retrace.sweeps.attempts import Attempt
from retrace.sweeps.studies import OVER, Claimed, Sweep
from retrace.tracking import store
from retrace.tracking import sweeps as shown

POLL_S = 0.3
TRIED = 3  # trials that fail before any other, after which the sweep stops
WORDS = {TrialState.PRUNED: "pruned", TrialState.FAIL: "FAILED"}


@dataclass
class Running:
    """A trial at work; `tree` is felled when that is closed."""

    claimed: Claimed
    attempt: Attempt
    tree: ExitStack
    signed: float = field(default_factory=time.monotonic)  # its last sign of life


class Runner:
    """Runs trials of a sweep, `jobs` at a time; none begins after `until`, on the monotonic clock. `say` is told."""

    def __init__(self, held: Sweep, jobs: int, until: float, say: Console) -> None:
        self.held, self.asked, self.jobs, self.until, self.say = held, held.asked, jobs, until, say
        self.dataset = (self.asked.space.base | self.asked.space.fixed)["dataset"]
        self.origin, self.cache, self.store, self.began = (
            trees.origin(),
            dvc_internals.cache().absolute(),
            store.address(),
            journal.now(),
        )
        self.running: list[Running] = []
        self.lacking: str | None = None  # why MLflow does not have all, if it has not

    def run(self) -> None:
        """There are as many trials as asked for, or it is late. Raises RetraceError where nothing works.

        A signal stops those that run, each where it is; they go on when the sweep does.
        """
        trees.clear(self.asked.name)
        self.show(shown.begin, self.dataset, self.asked.name, self.asked.space.said(), self.began)
        self._count("")
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
        """MLflow is told, or what it lacks is remembered: no trial waits for a server."""
        try:
            with store.answering():
                tell(*what)
        except RetraceError as error:
            self.lacking = str(error)

    def _begin(self) -> bool:
        """Whether there was another trial to run, or one that has been run already."""
        if len(self.running) >= self.jobs or time.monotonic() > self.until:
            return False
        if (claimed := self.held.claim()) is None:
            return False
        if twin := self.held.twin(claimed):
            self._end(claimed, TrialState.COMPLETE, twin.value, experiment=twin.user_attrs["experiment"])
            return True
        name = self.held.experiment(claimed.number)
        with ExitStack() as tree:
            grown = tree.enter_context(trees.grown(name, self.asked.name, self.origin, self.cache))
            attempt = Attempt(name, self.asked.name, claimed.changes, grown, self.store)
            self.running.append(Running(claimed, attempt, tree.pop_all()))
        return True

    def _look(self, each: Running) -> None:
        """What the trial told is on record; it is over where it is hopeless, or has ended."""
        attempt, over, why = each.attempt, each.attempt.is_over, None  # what ended before has told all
        for epoch, value in attempt.epochs(self.asked.metric):
            if self.held.is_hopeless(each.claimed, epoch, value) and not over:
                why = f"after epoch {epoch}, with {self.asked.metric} {value:.4f}: worse than three in four were then"
        if time.monotonic() - each.signed > studies.ALIVE_S:
            self.held.alive(each.claimed)
            each.signed = time.monotonic()
        why = None if attempt.is_trained else why  # nothing would be saved
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
            found = results.read(commit, self.asked.metric, self.cache) if commit else None
        except DataError as error:
            self._end(claimed, TrialState.FAIL, reason=str(error), seconds=took)
            return
        if found:
            self.held.learn(claimed, found.curve)
            self.show(results.show, self.dataset, self.asked.name, found.key, self.began)
            self._end(claimed, TrialState.COMPLETE, found.value, experiment=attempt.name, seconds=took)
        elif pruned:
            self._end(claimed, TrialState.PRUNED, reason=pruned, seconds=took)
        else:
            reason = f"{attempt.reason()}; {attempt.log.relative_to(trees.folder('').parent.parent)}"
            self._end(claimed, TrialState.FAIL, reason=reason, seconds=took)
            return
        attempt.log.unlink(missing_ok=True)

    def _end(self, claimed: Claimed, state: TrialState, value: float | None = None, **facts: str) -> None:
        ended = self.held.end(claimed, state, value, **facts)
        self.say.print(self._line(ended))
        if state is TrialState.COMPLETE:
            self.show(shown.update, self.dataset, self.asked.name, self.held.n_over, *best(self.held), None)

    def _line(self, trial: FrozenTrial) -> str:
        took = f"{trial.user_attrs['seconds']} s" if "seconds" in trial.user_attrs else "the same as an earlier trial"
        came_to = f"{self.asked.metric} {trial.value:.4f}" if trial.state is TrialState.COMPLETE else WORDS[trial.state]
        line = f"{self.held.experiment(trial.number)}  {came_to}  {words(self.held, trial)}  ({took})"
        if trial.state is not TrialState.COMPLETE:
            return f"{line}: {trial.user_attrs['reason']}"
        return f"{line}, the best so far" if self.held.complete()[0].number == trial.number else line

    def _at(self, each: Running) -> str:
        epochs = self.asked.space.values(each.claimed.changes)["epochs"]
        return f"{each.attempt.name}: epoch {each.attempt.epoch} of {epochs}"

    def _stop_if_nothing_works(self) -> None:
        over = [each for each in self.held.trials() if each.state in OVER]
        if len(over) >= min(TRIED, self.held.n_trials) and all(each.state is TrialState.FAIL for each in over):
            why = over[-1].user_attrs.get("reason", "")
            raise RetraceError(f"{self.asked.name}: all of the first {len(over)} trials failed, the last: {why}")

    def _leave(self) -> None:
        """No trial runs here any more; each goes on when the sweep does."""
        stopped = len(self.running)
        for each in self.running:
            with each.tree:
                each.attempt.stop()
        with suppress(RetraceError):  # without the database it is known by its process that they are nobody's
            for each in self.running:
                self.held.leave(each.claimed)
            self._count(f", {stopped} stopped half-way" * (stopped > 0) + "; the same command goes on")

    def _count(self, more: str) -> None:
        self.say.print(f"{self.asked.name}: {self.held.n_over} of {self.held.n_trials} trials are done{more}")


def best(held: Sweep) -> tuple[tuple[str, str, float | None], dict[str, str]]:
    """The best trial's experiment, the metric and its value; and what it changes, as `-S` takes it."""
    trial = held.complete()[0]
    changes = held.asked.space.changes(trial.params)
    said = {key: overrides.word(key, value) for key, value in changes.items()}
    return (trial.user_attrs["experiment"], held.asked.metric, trial.value), said


def words(held: Sweep, trial: FrozenTrial) -> str:
    """What differs between trials, of this one."""
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in trial.params.items()
        if key in held.asked.space.axes
    )
