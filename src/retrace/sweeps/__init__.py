"""Sweeps: trials proposed by Optuna, each run by DVC as an experiment, watched by its journal.

space (what is searched) -> studies (the trials, in a database) -> trials (DVC's processes) -> picture
"""
