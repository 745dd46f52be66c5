"""PyTorch classifiers as five DVC stages, each tracked by retrace.

The rooms, in the order in which data flows through them:

    errors, paths, shapes, stage_files   what all rooms share
    params        params.yaml, typed
    recipes       the experiments of five tutorials, as changes to params.yaml
    data/         data sets, downloads, splits, files on disk, batches
    models/       networks, backbone and head, pretrained weights, the classifier
    training/     the loop, the step, losses, optimizers, schedules, augmentations
    evaluation/   inference, metrics, a look into the network, results as files
    report/       figures and the HTML page
    serving/      the model as MLflow serves it, predictions
    cli/          `retrace predict`, `retrace recipe`
    doctor        `retrace doctor`'s checks of Python, packages, GPU and parameters
"""
