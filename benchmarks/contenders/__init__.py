"""The same trainings in plain PyTorch, Lightning and fastai, in an environment of their own.

Each module trains one job: `python -m contenders.plain '{"network": "cnn", ...}'`.
"""
