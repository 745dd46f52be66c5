"""The model as MLflow serves it, and predictions."""
