"""A sweep's trials in Optuna's database, which any process can continue, here or elsewhere.

A trial belongs to one process at a time: it has that process's identity and heartbeat. If the
process no longer exists, another one takes over the trial with its parameters and number, so that
a training resumes from its checkpoint. Nothing in the database is a pickle.
"""

import json
import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import optuna
import sqlalchemy.exc
from filelock import FileLock
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning, OptunaError
from optuna.pruners import BasePruner, NopPruner, PercentilePruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from retrace.errors import ParamsError, RetraceError
from retrace.pipeline.overrides import Flat
from retrace.store import tracking_uri
from retrace.sweeps import optuna_internals
from retrace.sweeps.definition import SweepSettings, check_equal, describe
from retrace.system import files, processes
from retrace.system.redaction import redacted

DATABASE = f"{tracking_uri.SQLITE}.retrace/sweeps.db"
LOCK_S = 120.0
BUSY_S = 60.0  # to wait while another process locks a database in a file
ALIVE_S = 30  # between two heartbeats of a trial
DEAD_S = 300  # without a heartbeat, after which a trial can be taken over
CONNECTIONS = 5  # attempts to open a server's database while another machine creates its tables
CONNECTION_S = 1.0  # between two attempts
FIRST = 5  # complete trials before any is pruned
# A trial is pruned if this percentage of the completed trials were better. With 50, most trials
# would be pruned, because later trials get better.
KEPT = 75.0
ABOUT, PROCESS = "about", "process"  # attributes of a study, of a trial
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

optuna.logging.set_verbosity(logging.WARNING)


@dataclass(frozen=True)
class ClaimedTrial:
    """A trial of this process: its changes to the params files, and the steps reported already."""

    trial: Trial
    changes: Flat
    reported: frozenset[int]

    @property
    def number(self) -> int:
        return self.trial.number


class Sweep:
    """The trials of a sweep, new or continued."""

    def __init__(self, settings: SweepSettings, address: str) -> None:
        self.settings = settings
        self.address = address
        with _lock(), storage_errors(address):
            self.storage = _storage(address)
            self.study, self.is_new = self._opened()
            if all_trials := settings.space.all_trials(settings.trials):
                for each in all_trials:
                    self.study.enqueue_trial(each, skip_if_exists=True)
            self.n_trials = len(all_trials) if all_trials else settings.trials

    def claim(self) -> ClaimedTrial | None:
        """Return a trial to run: an abandoned one or a new one.

        None if all have run, or other processes run the last ones.
        """
        with _lock(), storage_errors(self.address), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's, about heartbeats outside its own loop
            trials = self.trials()
            left = next(
                (
                    each
                    for each in trials
                    if each.state is TrialState.RUNNING and self._is_left(each)
                ),
                None,
            )
            if (
                left is None
                and sum(each.state is not TrialState.WAITING for each in trials) >= self.n_trials
            ):
                return None
            trial = optuna_internals.take_over(self.study, left) if left else self.study.ask()
            trial.set_user_attr(PROCESS, processes.to_line(processes.identity()))
            optuna_internals.record_heartbeat(self.storage, trial)
            # Seeded by number: equal sweeps have equal trials, whenever they were stopped.
            self.study.sampler = TPESampler(
                seed=(self.settings.seed * 1_000_003 + trial.number) % 2**32
            )
            changes = self.settings.space.suggested(trial)
        return ClaimedTrial(trial, changes, frozenset(left.intermediate_values if left else ()))

    def should_prune(self, claimed: ClaimedTrial, step: int, value: float) -> bool:
        """Report a step's value; return whether the trial should be pruned.

        It should, from a third of its steps on, if its best value so far is worse than the values
        of 75 % of the completed trials at the same step.
        """
        with storage_errors(self.address):
            if step not in claimed.reported:
                claimed.trial.report(value, step)
            n_steps = self._n_steps(claimed)
            self.study.pruner = self._pruner(n_steps)
            return step < n_steps and claimed.trial.should_prune()

    def learn(self, claimed: ClaimedTrial, curve: Mapping[int, float]) -> None:
        """Report the steps that are not yet known, such as those of a stage in DVC's cache."""
        with storage_errors(self.address):
            known = optuna_internals.reported(self.storage, claimed.trial)
            for step in sorted(curve.keys() - known.keys()):
                claimed.trial.report(curve[step], step)

    def alive(self, claimed: ClaimedTrial) -> None:
        """Record a heartbeat, so that other processes see that the trial runs."""
        with storage_errors(self.address):
            optuna_internals.record_heartbeat(self.storage, claimed.trial)

    def leave(self, claimed: ClaimedTrial) -> None:
        """Give up the trial; the next process of the sweep continues it."""
        with storage_errors(self.address):
            claimed.trial.set_user_attr(PROCESS, "")

    def end(
        self, claimed: ClaimedTrial, state: TrialState, value: float | None = None, **facts: str
    ) -> FrozenTrial:
        """Record that the trial has ended, with these attributes."""
        with storage_errors(self.address):
            for name, fact in facts.items():
                claimed.trial.set_user_attr(name, fact)
            return self.study.tell(claimed.trial, value, state, skip_if_finished=True)

    def twin(self, claimed: ClaimedTrial) -> FrozenTrial | None:
        """Return a complete trial with the same parameters."""
        params = claimed.trial.params
        return next((each for each in self.complete() if each.params == params), None)

    def experiment(self, number: int) -> str:
        """Return the name of a trial's DVC experiment."""
        return f"{self.settings.name}-{number}"

    @property
    def n_over(self) -> int:
        return sum(each.state in OVER for each in self.trials())

    def forget(self) -> None:
        """Delete the sweep from the database."""
        with storage_errors(self.address):
            optuna.delete_study(study_name=self.settings.name, storage=self.storage)

    def trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def complete(self) -> list[FrozenTrial]:
        """Return the complete trials, the best first."""
        complete = [
            each
            for each in self.trials()
            if each.state is TrialState.COMPLETE and each.value is not None
        ]
        sign = -1 if self.settings.objective.direction == "maximize" else 1
        return sorted(complete, key=lambda each: (sign * (each.value or 0.0), each.number))

    def _opened(self) -> tuple[optuna.Study, bool]:
        """Create the study, or load it; return whether it is new."""
        settings = self.settings
        about = describe(settings)
        try:
            study = optuna.create_study(
                storage=self.storage,
                study_name=settings.name,
                direction=settings.objective.direction,
            )
        except DuplicatedStudyError:
            study = optuna.load_study(storage=self.storage, study_name=settings.name)
            stored = study.user_attrs.get(ABOUT)
            if stored is not None:
                check_equal(settings.name, json.loads(stored), about)
                return study, False
        study.set_user_attr(ABOUT, json.dumps(about))
        return study, True

    def _is_left(self, trial: FrozenTrial) -> bool:
        """Return whether the trial's process no longer exists."""
        who = trial.user_attrs.get(PROCESS)
        return not who or not processes.alive(processes.from_line(who)) or self._is_stale(trial)

    def _is_stale(self, trial: FrozenTrial) -> bool:
        return optuna_internals.is_stale(self.storage, self.study, trial)

    def _n_steps(self, claimed: ClaimedTrial) -> int:
        """Return how many steps the trial has: the parameter's value, else as the complete ones."""
        number = self.settings.n_steps(claimed.changes)
        curves = [each.intermediate_values for each in self.complete()]
        return number or int(median([max(curve) for curve in curves if curve] or [0]))

    def _pruner(self, n_steps: int) -> BasePruner:
        if not self.settings.prune:
            return NopPruner()
        return PercentilePruner(KEPT, FIRST, n_warmup_steps=math.ceil(n_steps / 3))


@contextmanager
def storage_errors(address: str) -> Iterator[None]:
    """Turn the database's errors into RetraceError, in one line."""
    try:
        yield
    except (OptunaError, sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        cause = error.__cause__ or error
        message = " ".join(str(getattr(cause, "orig", None) or cause).split())[:200]
        raise RetraceError(
            redacted(f"{address}: {message}; fix this, then run the command again")
        ) from None


def storage_address(given: str | None) -> str:
    """Return the database's address: `given`, RETRACE_SWEEP_STORAGE, or a file in the repository.

    Raises ParamsError if it is not the address of a database.
    """
    address = given or os.environ.get("RETRACE_SWEEP_STORAGE") or DATABASE
    if "://" not in address:
        wanted = "sqlite:///trials.db or postgresql+psycopg2://user@host/name"
        raise ParamsError(f"--storage is {address!r}; should be an address such as {wanted}")
    return tracking_uri.absolute(address)


def _storage(address: str) -> RDBStorage:
    """Open the database.

    A missing file is created under another name, because two processes would corrupt it.
    """
    file = tracking_uri.sqlite_file(address)
    if file and not file.exists():
        with files.atomic(file) as unfinished:
            _connected(tracking_uri.sqlite_uri(unfinished)).engine.dispose()
    return _connected(address)


def _connected(address: str, times: int = CONNECTIONS) -> RDBStorage:
    """Open a database; try again after a second if another machine is creating its tables."""
    try:
        return _opened(address)
    except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, OptunaError):
        if times == 1 or tracking_uri.sqlite_file(address):
            raise
        time.sleep(CONNECTION_S)
        return _connected(address, times - 1)


def _opened(address: str) -> RDBStorage:
    if tracking_uri.sqlite_file(address):  # Optuna fills in what is in braces
        address = address.replace("{", "{{").replace("}", "}}")
    waits = (
        {"connect_args": {"timeout": BUSY_S}}
        if tracking_uri.sqlite_file(address)
        else {"pool_pre_ping": True}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(address, waits, heartbeat_interval=ALIVE_S, grace_period=DEAD_S)


def _lock() -> FileLock:
    """Return the lock with which the processes of this machine claim trials one at a time."""
    file = files.root() / ".retrace" / "sweeps.lock"
    file.parent.mkdir(exist_ok=True)
    return FileLock(file, timeout=LOCK_S)
