"""Test the trained network on the test split, which training does not use."""

from dataclasses import replace

import retrace
from lab import params, paths
from lab.data import batches, storage
from lab.evaluation import (
    artifacts,
    grad_cam,
    inference,
    introspection,
    metrics,
    scores,
    suspicious,
)
from lab.models import classifier
from lab.training import device, records
from retrace import errors

LOGGED = (
    paths.METRICS,
    paths.CLASSES,
    paths.CONFUSION,
    paths.PREDICTION_TABLE,
    paths.SUSPICIOUS,
)


def main() -> None:
    compute = device.configure(params.load(params.Evaluate), "float32")
    model, config = classifier.load()
    samples, _ = storage.load(paths.TEST)
    trained = records.load_history()[config.epoch - 1]

    with retrace.stage("evaluate") as run:
        split = batches.on_device(samples, compute.device)
        outputs = inference.outputs(model.to(compute.device), split)
        logits = outputs.logits.cpu().numpy()
        predictions = artifacts.Predictions(logits, outputs.features.cpu().numpy(), samples.labels)
        classes = metrics.by_class(predictions.predicted, samples.labels, config.class_names)
        tested = {
            "test_loss": scores.loss(outputs.logits, split.labels),
            "test_accuracy": scores.accuracy(outputs.logits, split.labels),
            **metrics.averaged(classes),
        }
        trained = {name: value for name, value in trained.items() if name != "epoch"}
        artifacts.save_metrics(trained | tested)
        artifacts.save_classes(classes)
        artifacts.save_confusion(samples.labels, predictions.predicted, config.class_names)
        artifacts.save_predictions(predictions)
        artifacts.save_prediction_table(samples, predictions)
        heat = grad_cam.collect(model, split, predictions)
        artifacts.save_views(replace(introspection.collect(model, split), heat=heat))

        contradicted = suspicious.find({"test": (samples, logits)})
        suspicious.save(contradicted)

        run.log(tested | {"suspicious_labels": len(contradicted)})
        run.summary(tested)
        for path in LOGGED:
            run.log_artifact(path)
    summary = f"test accuracy {tested['test_accuracy']:.2%}, loss {tested['test_loss']:.4f}"
    print(f"{summary}, {len(samples):,} samples")


if __name__ == "__main__":
    errors.run(main)
