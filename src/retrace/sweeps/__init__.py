"""Sweeps: Optuna proposes trials, DVC runs each as an experiment, its event log shows progress.

space (what is searched) -> studies (trials in a database) -> attempts (DVC processes) -> picture
"""
