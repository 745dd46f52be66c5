"""Sweeps: Optuna proposes trials, DVC runs each as an experiment, event logs show progress.

space (what is searched) -> definition -> study (trials in a database) -> runner, trial -> plot
"""
