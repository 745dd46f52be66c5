"""models/ holds the network trained on the training part; the validation part is only watched."""

import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from retrace import batches, classifier, errors, params, paths, progress, reports, seeding, splits, tracking, training
from retrace.journal import Journal
from retrace.losses import LOSSES
from retrace.models import MODELS
from retrace.optimizers import OPTIMIZERS
from retrace.progress import Lines
from retrace.schedules import SCHEDULES
from retrace.training import Epoch


def recorder(run: Journal, follower: Lines, history: list[dict[str, float]]) -> Callable[[Epoch], None]:
    """What tells `run`, `follower` and `history` of an epoch."""

    def on_epoch(epoch: Epoch) -> None:
        row = asdict(epoch)
        history.append(row)
        follower.epoch(epoch)
        metrics = {name: value for name, value in row.items() if name != "epoch"}
        run.metrics(metrics, epoch.epoch, headline=epoch.epoch == follower.epochs)
        run.metrics({"images_per_s": follower.images_per_s}, epoch.epoch)
        run.sync()

    return on_epoch


def main() -> None:
    p = params.load(params.Train)
    params.bind(MODELS, p.model, "models")
    loss = params.bind(LOSSES, p.loss, "losses")()
    optimizer_of = params.bind(OPTIMIZERS, p.optimizer, "optimizers")
    schedule = params.bind(SCHEDULES, p.schedule, "schedules")
    compute = seeding.settle(p, p.precision)
    samples, scale = splits.load(paths.TRAIN)
    watched, _ = splits.load(paths.VALIDATION)

    with tracking.stage("train") as run:
        run.tags(**{"retrace.device": str(compute)})
        torch.manual_seed(p.seed)
        card = classifier.card_of(p.model, samples, scale)
        model = classifier.build(card).to(compute.device)
        part, validation = batches.on_device(samples, compute.device), batches.on_device(watched, compute.device)
        history: list[dict[str, float]] = []

        began = time.perf_counter()
        with progress.follow(p.epochs, p.epochs * batches.count(part, p.batch_size)) as follower:
            training.train(
                model,
                loss,
                optimizer_of(model.parameters()),
                lambda done: p.lr * schedule(done),
                part,
                validation,
                compute,
                p,
                on_step=follower.step,
                on_epoch=recorder(run, follower, history),
            )

        run.metrics({"train_s": time.perf_counter() - began})
        classifier.save(model, card)
        reports.save_table(paths.HISTORY, history)
        run.artifact(paths.HISTORY)
        run.artifact(paths.CARD)
        run.model(paths.WEIGHTS, paths.CARD)


if __name__ == "__main__":
    errors.run(main)
