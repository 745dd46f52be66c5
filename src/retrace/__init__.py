"""Reproducible PyTorch experiments: DVC owns the graph and the files, MLflow shows every run."""
