"""PyTorch classifiers as five DVC stages, each tracked by retrace.

Its modules and subpackages, in the order in which data flows; what serves them comes last:

    errors, paths, shapes, stage_files   shared by the others
    params        params.yaml, typed
    recipes       the experiments of five tutorials, as changes to params.yaml
    data/         data sets, downloads, splits, files on disk, batches
    models/       networks, backbone and head, pretrained weights, the classifier
    training/     the loop, the step, losses, optimizers, schedules, augmentations
    evaluation/   inference, metrics, filters and feature maps, results as files
    report/       figures and the HTML page
    serving/      the model as MLflow serves it, predictions
    cli/          `retrace predict`, `retrace recipe`
    doctor/       the checks of Python, packages, GPU and parameters for `retrace doctor`; the code
                  that each stage imports, as the `deps:` in dvc.yaml
"""

import sys

from retrace.system import interpreter

# A stage may run before the environment is activated: then its next import fails.
sys.excepthook = interpreter.explain
