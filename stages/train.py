"""Train the network on the training split; the validation split only monitors it."""

import time

import numpy as np
import torch
import torchinfo

from retrace import (
    batches,
    checkpoint,
    classifier,
    errors,
    evaluation,
    files,
    params,
    paths,
    pretrained,
    progress,
    recorder,
    reports,
    seeding,
    splits,
    tracking,
    training,
)
from retrace.augmentations import AUGMENTATIONS
from retrace.batches import Augment, Part
from retrace.classifier import Card, Classifier
from retrace.errors import ParamsError
from retrace.journal import EventLog
from retrace.losses import LOSSES
from retrace.models import MODELS
from retrace.optimizers import OPTIMIZERS
from retrace.params import Train
from retrace.recorder import Recorder
from retrace.samples import Samples
from retrace.schedules import SCHEDULES
from retrace.seeding import Compute
from retrace.splits import Scale
from retrace.state import State

SETTLED, SETTLED_NUMBERS = 2000, 8_000_000  # samples that layers are taken from, and numbers in them, at most
SHOWN = 64  # samples of reports/batch.safetensors


def built(p: Train, samples: Samples, measured: Scale) -> tuple[Classifier, Card]:
    """The network before training, and its card. Raises ParamsError where the parameters do not fit the samples."""
    if not samples.are_images and p.augmentation.name != "none":
        raise ParamsError(f"params.yaml: augmentation is {p.augmentation.name!r}; should be none: these are no images")
    params.bind(MODELS, p.model, "models")
    card = classifier.card_of(p.model, samples, classifier.scale_of(p.scaling, samples, measured))
    torch.manual_seed(p.seed)
    model = classifier.build(card)
    if not model.is_settled:
        n = max(1, min(SETTLED, SETTLED_NUMBERS // samples.inputs[0].size))
        model.settle(torch.from_numpy(np.array(samples.inputs[:n])))
    if p.pretrained != "none":
        card = card.model_copy(update={"pretrained": pretrained.load_into(model, p.pretrained)})
    if p.freeze_trunk:
        model.freeze_trunk()
    elif min(p.batch_size, len(samples)) == 1 and not classifier.takes_one(model, card):
        raise ParamsError(
            f"params.yaml: batch_size is {p.batch_size}; should be 2 or more, for batch norm in this model"
        )
    return model, card


def show(model: Classifier, card: Card, part: Part, augment: Augment | None, p: Train) -> None:
    """reports/ has the network's layers as text, and the first batch as the network will see it."""
    summary = torchinfo.summary(model, input_data=classifier.example(card, 1), device="cpu", verbose=0)
    with files.atomic(paths.SUMMARY) as unfinished:
        unfinished.write_text(f"{summary}\n", encoding="utf-8")
    inputs, labels = next(batches.shuffled(part, p.batch_size, augment, torch.Generator(), seed=p.seed, epoch=0))
    reports.save_batch(inputs[:SHOWN].cpu().numpy(), labels[:SHOWN].cpu().numpy())


def past_trunk(
    model: Classifier, part: Part, validation: Part, compute: Compute, p: Train
) -> tuple[Classifier, Part, Part]:
    """The head, which alone learns, and both parts as it sees them in every epoch."""
    print("all samples go through the frozen trunk, once", flush=True)
    with seeding.enough_memory(p.batch_size):
        with compute.autocast():
            part = evaluation.features(model, part)
        return model.head_alone(), part, evaluation.features(model, validation)


def main() -> None:
    p = params.load(params.Train)
    loss_of = params.bind(LOSSES, p.loss, "losses")
    optimizer_of = params.bind(OPTIMIZERS, p.optimizer, "optimizers")
    schedule = params.bind(SCHEDULES, p.schedule, "schedules")
    augmentation = params.bind(AUGMENTATIONS, p.augmentation, "augmentations")
    augment = None if p.augmentation.name == "none" else augmentation
    compute = seeding.settle(p, p.precision)
    samples, measured = splits.load(paths.TRAIN)
    watched, _ = splits.load(paths.VALIDATION)
    model, card = built(p, samples, measured)
    part, validation = batches.on_device(samples, compute.device), batches.on_device(watched, compute.device)
    loss = loss_of(part.labels.bincount(minlength=len(card.class_names)))

    with tracking.stage("train") as run, checkpoint.held(fingerprint(run, compute)) as checkpoints:
        run.tags(**{"retrace.device": str(compute)})
        show(model, card, part, augment, p)
        began = time.perf_counter()
        model = learner = model.to(compute.device)
        if p.freeze_trunk and augment is None:
            learner, part, validation = past_trunk(model, part, validation, compute, p)
        state = State(learner, optimizer_of(learner.trainable()), compute.device)
        total_steps = p.epochs * batches.count(part, p.batch_size)
        with progress.follow(p.epochs, total_steps) as lines:
            told = Recorder(run, lines, checkpoints, state, total_steps, began)
            told.resume()
            rate, listeners = (lambda at: p.lr * schedule(at)), {"on_step": told.step, "on_epoch": told.epoch}
            with told.saving(), seeding.enough_memory(p.batch_size):
                kept = training.train(state, loss, rate, augment, part, validation, compute, p, **listeners)
        run.metrics({"train_s": told.seconds, "kept_epoch": kept.epoch})
        run.headline(recorder.figures(kept))
        run.tags(**{"retrace.diagnosis": reports.diagnosis(told.history)})

        classifier.save(model, card.model_copy(update={"epoch": kept.epoch}))
        told.report()
        for path in (paths.HISTORY, paths.STEPS, paths.SUMMARY, paths.CARD):
            run.artifact(path)
        run.model(paths.WEIGHTS, paths.CARD)
    checkpoint.remove(checkpoints.folder)  # not before: until here a kill costs the outputs
    print(reports.diagnosis(told.history))


def fingerprint(run: EventLog, compute: Compute) -> str:
    """Of all that decides the weights' bits."""
    return checkpoint.fingerprint(run.header["inputs"], run.header["machine"], str(compute), torch.__version__)


if __name__ == "__main__":
    errors.run(main)
