"""A loop in plain PyTorch, with data loaders and MLflow."""

from dataclasses import asdict
from typing import Any

import mlflow
import torch
from torch import nn

from contenders import job as jobs
from contenders.job import Job, Result


def train(job: Job, result: Result, loaders: tuple[Any, Any, Any]) -> None:
    """Train all epochs, validate after each, and test at the end."""
    training, validation, test = loaders
    model = job.model()
    optimizer = job.optimizer_of(model)
    n_steps = job.epochs * len(training)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: job.factor(step / n_steps))
    for epoch in range(job.epochs):
        model.train()
        total = 0.0
        for images, labels in training:
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total += loss.item() * len(labels)
        val_loss, val_accuracy = measured(model, validation)
        metrics = {"train_loss": total / result.n_images, "val_loss": val_loss}
        mlflow.log_metrics(metrics | {"val_accuracy": val_accuracy}, step=epoch)
        result.end_epoch()
    _, result.accuracy = measured(model, test)
    mlflow.log_metric("test_accuracy", result.accuracy)
    torch.save(model.state_dict(), "plain.pt")
    mlflow.log_artifact("plain.pt")


@torch.no_grad()
def measured(model: torch.nn.Module, loader: Any) -> tuple[float, float]:
    """Return the mean loss and the accuracy."""
    model.eval()
    loss = n_correct = n = 0.0
    for images, labels in loader:
        logits = model(images)
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
        n_correct += (logits.argmax(1) == labels).sum().item()
        n += len(labels)
    return loss / n, n_correct / n


def main() -> None:
    job = jobs.from_command_line()
    mlflow.set_experiment(jobs.EXPERIMENT)
    with mlflow.start_run():
        mlflow.log_params(asdict(job))
        loaders = job.loaders()
        result = Result(len(loaders[0].dataset))
        train(job, result, loaders)
    result.print()


if __name__ == "__main__":
    main()
