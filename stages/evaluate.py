"""Test the trained network on the test split, which no stage before has read."""

from dataclasses import asdict

from retrace import batches, classifier, errors, evaluation, params, paths, reports, seeding, splits, tracking, views


def main() -> None:
    compute = seeding.configure(params.load(params.Evaluate), "float32")
    model, card = classifier.load()
    samples, _ = splits.load(paths.TEST)
    trained = reports.load_history()[card.epoch - 1]

    with tracking.stage("evaluate") as run:
        split = batches.on_device(samples, compute.device)
        outputs = evaluation.outputs(model.to(compute.device), split)
        logits = outputs.logits.cpu().numpy()
        predictions = reports.Predictions(logits, outputs.features.cpu().numpy(), samples.labels)
        classes = evaluation.by_class(predictions.predicted, samples.labels, card.class_names)
        tested = {
            "test_loss": evaluation.loss(outputs.logits, split.labels),
            "test_accuracy": evaluation.accuracy(outputs.logits, split.labels),
            **evaluation.averaged(classes),
        }
        trained = {name: value for name, value in trained.items() if name != "epoch"}
        reports.save_metrics(trained | tested)
        reports.save_table(paths.CLASSES, map(asdict, classes))
        reports.save_confusion(samples.labels, predictions.predicted, card.class_names)
        reports.save_predictions(predictions)
        reports.save_views(views.collect(model, split))

        run.metrics(tested)
        run.headline(tested)
        for path in (paths.METRICS, paths.CLASSES, paths.CONFUSION):
            run.artifact(path)
    accuracy, loss = tested["test_accuracy"], tested["test_loss"]
    print(f"test accuracy {accuracy:.2%}, loss {loss:.4f}, {len(samples):,} samples")


if __name__ == "__main__":
    errors.run(main)
