"""Run a sweep's trials, some at a time, until there are enough."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from retrace import errors, event_log, settings
from retrace.errors import DataError, RetraceError
from retrace.pipeline import grouping, overrides
from retrace.store import backend, sweep_runs
from retrace.sweeps import repositories, results, study
from retrace.sweeps.executor import Executor, RunningTrial
from retrace.sweeps.study import OVER, ClaimedTrial, Sweep
from retrace.system import files
from retrace.system.text import count

POLL_S = 0.3
TRIED = 3  # a sweep stops if this many first trials have all failed
WORDS = {TrialState.PRUNED: "pruned", TrialState.FAIL: "FAILED"}


@dataclass
class Running:
    """A running trial; closing `stack` deletes its repository."""

    claimed: ClaimedTrial
    attempt: RunningTrial
    stack: ExitStack
    signed: float = field(default_factory=time.monotonic)  # last heartbeat


class Runner:
    """Runs trials of a sweep, as many at a time as the executor has slots.

    None starts after `until`, on the monotonic clock.
    """

    def __init__(self, sweep: Sweep, executor: Executor, until: float, console: Console) -> None:
        self.sweep = sweep
        self.settings = sweep.settings
        self.executor = executor
        self.until = until
        self.console = console
        params = self.settings.space.parameters.base | self.settings.space.fixed
        self.experiment = grouping.mlflow_experiment(settings.load(files.root()), params)
        self.began = event_log.now()
        self.running: list[Running] = []
        self.lacking: str | None = None  # why data is missing in MLflow, if it is

    def run(self) -> None:
        """Run trials until there are enough or time is up. Raises RetraceError if all fail.

        A signal stops the running ones; they resume when the sweep does.
        """
        repositories.remove_leftovers(self.settings.name)
        described = self.settings.space.described()
        self.update_mlflow(
            sweep_runs.begin, self.experiment, self.settings.name, described, self.began
        )
        self._print_count("")
        try:
            with self.console.status("") as status:
                while self._begin() or self.running:
                    status.update("  ".join(map(self._at, self.running)))
                    for each in list(self.running):
                        self._look(each)
                    time.sleep(POLL_S if self.running else 0.0)
        except BaseException:
            with errors.Deferred():
                self._leave()
            raise

    def update_mlflow(self, update: Callable[..., None], *arguments: Any) -> None:
        """Update MLflow; if it does not answer, keep the reason: no trial waits for a server."""
        try:
            with backend.mlflow_errors():
                update(*arguments)
        except RetraceError as error:
            self.lacking = str(error)

    def _begin(self) -> bool:
        """Start the next trial, or copy the result of an equal earlier one.

        Return False if none can start now.
        """
        if len(self.running) >= self.executor.n_slots or time.monotonic() > self.until:
            return False
        claimed = self.sweep.claim()
        if claimed is None:
            return False
        twin = self.sweep.twin(claimed)
        if twin:
            experiment = twin.user_attrs["experiment"]
            self._end(claimed, TrialState.COMPLETE, twin.value, experiment=experiment)
            return True
        name = self.sweep.experiment(claimed.number)
        with ExitStack() as stack:
            attempt = stack.enter_context(self.executor.started(name, claimed.changes))
            self.running.append(Running(claimed, attempt, stack.pop_all()))
        return True

    def _look(self, each: Running) -> None:
        """Report a trial's steps; end it if it is unpromising or its process has ended."""
        attempt = each.attempt
        over = attempt.is_over  # read before the steps, so that none is missed
        why = None
        for step, value in attempt.steps():
            if self.sweep.should_prune(each.claimed, step, value) and not over:
                reached = f"after step {step} with {self.settings.metric} {value:.4g}"
                others = f"{study.KEPT:.0f} % of the completed trials at that step"
                why = f"{reached}: worse than {others}"
        if time.monotonic() - each.signed > study.ALIVE_S:
            self.sweep.alive(each.claimed)
            each.signed = time.monotonic()
        why = None if attempt.is_measured else why  # pruning would no longer save time
        if why:
            attempt.prune(why)
        if over or why:
            self.running.remove(each)
            with each.stack:
                self._finish(each, why)
                self._stop_if_nothing_works()

    def _finish(self, each: Running, pruned: str | None) -> None:
        """End the trial in the database, with its result or the reason why it has none."""
        attempt = each.attempt
        claimed = each.claimed
        took = f"{attempt.seconds:.0f}"
        try:
            result = attempt.result()
        except DataError as error:
            self._end(claimed, TrialState.FAIL, reason=str(error), seconds=took)
            return
        if result:
            self.sweep.learn(claimed, result.curve)
            self.update_mlflow(results.add_to_sweep, self.settings.name, result, self.began)
            self._end(
                claimed, TrialState.COMPLETE, result.value, experiment=attempt.name, seconds=took
            )
        elif pruned:
            self._end(claimed, TrialState.PRUNED, reason=pruned, seconds=took)
        else:
            log = attempt.log.relative_to(files.root())
            reason = f"{attempt.reason()}; {log}"
            self._end(claimed, TrialState.FAIL, reason=reason, seconds=took)
            return
        attempt.log.unlink(missing_ok=True)

    def _end(
        self, claimed: ClaimedTrial, state: TrialState, value: float | None = None, **facts: str
    ) -> None:
        ended = self.sweep.end(claimed, state, value, **facts)
        self.console.print(self._line(ended))
        if state is TrialState.COMPLETE:
            name, changes = best(self.sweep)
            n_over = self.sweep.n_over
            self.update_mlflow(
                sweep_runs.update, self.experiment, self.settings.name, n_over, name, changes, None
            )

    def _line(self, trial: FrozenTrial) -> str:
        """Describe an ended trial: its name, result, parameters and time."""
        facts = trial.user_attrs
        is_complete = trial.state is TrialState.COMPLETE
        took = f"{facts['seconds']} s" if "seconds" in facts else "the same as an earlier trial"
        result = WORDS.get(trial.state) or f"{self.settings.metric} {trial.value:.4g}"
        name = self.sweep.experiment(trial.number)
        line = f"{name}  {result}  {parameters_text(self.sweep, trial)}  ({took})"
        if not is_complete:
            return f"{line}: {facts['reason']}"
        is_best = self.sweep.complete()[0].number == trial.number
        return f"{line}, the best so far" if is_best else line

    def _at(self, each: Running) -> str:
        n_steps = self.settings.n_steps(each.claimed.changes)
        total = "" if n_steps is None else f" of {n_steps}"
        return f"{each.attempt.name}: step {each.attempt.step}{total}"

    def _stop_if_nothing_works(self) -> None:
        """Raise RetraceError if the first trials have all failed."""
        over = [each for each in self.sweep.trials() if each.state in OVER]
        if len(over) >= min(TRIED, self.sweep.n_trials) and all(
            each.state is TrialState.FAIL for each in over
        ):
            why = over[-1].user_attrs.get("reason", "")
            first = "the trial" if len(over) == 1 else f"all of the first {len(over)} trials"
            raise RetraceError(f"{self.settings.name}: {first} failed, the last: {why}")

    def _leave(self) -> None:
        """Stop all trials of this process; they resume when the sweep does."""
        stopped = len(self.running)
        with ExitStack() as stacks:
            for each in self.running:
                stacks.push(each.stack)
            for each in self.running:
                each.attempt.stop()
        with suppress(RetraceError):  # without it, others see that this process no longer exists
            for each in self.running:
                self.sweep.leave(each.claimed)
            interrupted = f", {count(stopped, 'trial')} interrupted" if stopped else ""
            self._print_count(f"{interrupted}; the same command resumes the sweep")

    def _print_count(self, more: str) -> None:
        n_trials = count(self.sweep.n_trials, "trial is", "trials are")
        done = f"{self.sweep.n_over} of {n_trials} done"
        self.console.print(f"{self.settings.name}: {done}{more}")


def best(sweep: Sweep) -> tuple[tuple[str, str, float | None], dict[str, str]]:
    """Return the best trial's experiment, metric and value, and its changes in `-S` syntax."""
    trial = sweep.complete()[0]
    changes = sweep.settings.space.changes(trial.params)
    words = {key: overrides.literal(value) for key, value in changes.items()}
    return (trial.user_attrs["experiment"], sweep.settings.metric, trial.value), words


def parameters_text(sweep: Sweep, trial: FrozenTrial) -> str:
    """Return the searched parameters of a trial, as text."""
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in trial.params.items()
        if key in sweep.settings.space.axes
    )
