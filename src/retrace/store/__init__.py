"""MLflow: runs, uploads, cached stages, models and the registry."""
