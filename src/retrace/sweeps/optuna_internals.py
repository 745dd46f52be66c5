"""All use of Optuna's undocumented names: how a process takes over the trial of another one.

Optuna (5.0) can mark trials without a heartbeat as failed (optuna/optuna#5860), but not hand one
over with its parameters and number. That takes a trial's id in the storage, which is private, and
the heartbeat, which only Optuna's own loop records. tests/sweeps/test_study.py fails once there
are public names.
"""

from collections.abc import Mapping

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial


def take_over(study: optuna.Study, trial: FrozenTrial) -> Trial:
    """Return a trial of the study to continue: to suggest, report and tell."""
    return Trial(study, trial._trial_id)


def record_heartbeat(storage: RDBStorage, trial: Trial) -> None:
    """Record that a process works on the trial."""
    storage.record_heartbeat(trial._trial_id)


def is_stale(storage: RDBStorage, study: optuna.Study, trial: FrozenTrial) -> bool:
    """Return whether the trial has had no heartbeat for the storage's grace period."""
    return trial._trial_id in storage._get_stale_trial_ids(study._study_id)


def reported(storage: RDBStorage, trial: Trial) -> Mapping[int, float]:
    """Return the values that the trial has reported, by step."""
    return storage.get_trial(trial._trial_id).intermediate_values
