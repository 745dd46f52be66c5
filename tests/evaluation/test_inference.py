"""Features and logits of a split."""

import pytest
import torch

from lab import params
from lab.data import batches, storage
from lab.data.samples import Samples
from lab.evaluation import inference
from lab.models import classifier


def test_outputs_do_not_depend_on_batch_size(
    stripes: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    choice = params.Choice(name="softmax", settings={})
    model = classifier.build(classifier.config_of(choice, stripes, storage.scale(stripes)))
    split = batches.on_device(stripes, torch.device("cpu"))
    expected = inference.outputs(model, split)
    monkeypatch.setitem(inference.BATCH, "cpu", 7)
    outputs = inference.outputs(model, split)
    torch.testing.assert_close(outputs.logits, expected.logits)
    torch.testing.assert_close(outputs.logits, model.head(outputs.features))
