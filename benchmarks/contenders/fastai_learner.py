"""fastai's Learner with its own data loaders, optimizers and one-cycle schedule, and MLflow."""

from dataclasses import asdict
from functools import partial
from typing import Any

import mlflow
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import Learner  # the module adds fit_one_cycle
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import SGD, Adam

from contenders import job as jobs
from contenders.job import Job, Result


class Tracking(Callback):
    """Logs each epoch to MLflow."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result

    def before_train(self) -> None:
        if not self.result.epoch_s:
            self.result.began = jobs.time.perf_counter()

    def after_epoch(self) -> None:
        names = ("train_loss", "val_loss", "val_accuracy")
        values = self.learn.recorder.log[1:4]
        if len(values) < len(names):  # the test: there was no training
            return
        mlflow.log_metrics(dict(zip(names, map(float, values), strict=True)), step=self.epoch)
        self.result.end_epoch()


def learner(job: Job, result: Result, loaders: DataLoaders) -> Any:
    """Return the learner of a job."""
    optimizer = partial(SGD, mom=0.9) if job.optimizer == "sgd" else partial(Adam, wd=0.01)
    learn = Learner(
        loaders,
        job.model(),
        CrossEntropyLossFlat(),
        opt_func=optimizer,
        metrics=accuracy,
        cbs=Tracking(result),
    )
    learn.no_bar().__enter__()
    learn.no_logging().__enter__()
    return learn


def main() -> None:
    job = jobs.from_command_line()
    mlflow.set_experiment(jobs.EXPERIMENT)
    with mlflow.start_run():
        mlflow.log_params(asdict(job))
        train, validation, test = job.datasets()
        cpu = torch.device("cpu")
        settings = {"bs": job.batch_size, "num_workers": job.workers, "device": cpu}
        loaders = DataLoaders.from_dsets(train, validation, **settings)
        result = Result(len(train))  # pyright: ignore[reportArgumentType]
        learn = learner(job, result, loaders)
        if job.schedule == "constant":
            learn.fit(job.epochs, job.lr)
        else:
            learn.fit_one_cycle(job.epochs, job.lr, pct_start=jobs.WARMUP)
        _, result.accuracy = map(float, learn.validate(dl=DataLoader(test, **settings)))
        mlflow.log_metric("test_accuracy", result.accuracy)
        torch.save(learn.model.state_dict(), "fastai.pt")
        mlflow.log_artifact("fastai.pt")
    result.print()


if __name__ == "__main__":
    main()
