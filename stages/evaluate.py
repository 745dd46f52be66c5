"""reports/ says how good the trained network is on the test part, which no stage before this one has read."""

from retrace import tracking

# First, so that it imports MLflow while this imports the rest.
beside = tracking.start() if __name__ == "__main__" else None

from dataclasses import asdict

from retrace import batches, classifier, errors, evaluation, params, paths, reports, seeding, splits, views


def main() -> None:
    compute = seeding.configure(params.load(params.Evaluate), "float32")
    model, card = classifier.load()
    samples, _ = splits.load(paths.TEST)
    trained = reports.load_history()[card.epoch - 1]

    with tracking.stage("evaluate", beside) as run:
        part = batches.on_device(samples, compute.device)
        made = evaluation.outputs(model.to(compute.device), part)
        predictions = reports.Predictions(made.logits.cpu().numpy(), made.features.cpu().numpy(), samples.labels)
        classes = evaluation.by_class(predictions.predicted, samples.labels, card.class_names)
        tested = {
            "test_loss": evaluation.loss(made.logits, part.labels),
            "test_accuracy": evaluation.accuracy(made.logits, part.labels),
            **evaluation.averaged(classes),
        }
        reports.save_metrics({name: value for name, value in trained.items() if name != "epoch"} | tested)
        reports.save_table(paths.CLASSES, map(asdict, classes))
        reports.save_confusion(samples.labels, predictions.predicted, card.class_names)
        reports.save_predictions(predictions)
        reports.save_views(views.of(model, part))

        run.metrics(tested)
        run.headline(tested)
        for path in (paths.METRICS, paths.CLASSES, paths.CONFUSION):
            run.artifact(path)
    print(f"test accuracy {tested['test_accuracy']:.2%}, loss {tested['test_loss']:.4f}, {len(samples):,} samples")


if __name__ == "__main__":
    errors.run(main)
