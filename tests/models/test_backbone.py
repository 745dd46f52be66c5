"""torchvision's networks as backbones."""

import pytest
import torch
from configs import cats_and_dogs
from torch import nn

from lab.models import backbone, classifier
from retrace.errors import ParamsError
from retrace.pipeline import params_yaml

SMALL = "squeezenet1_1"


FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11_bn",
    "vgg16",
    "vit_b_32",
    "wide_resnet50_2",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_backbone_and_head(name: str) -> None:
    # Shapes alone: the weights would be gigabytes. RegNet computes its own widths with tensors.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        trunk, head = backbone.build(name, (3, 224, 224), 5, "replace")
        assert head(trunk.eval()(torch.empty(2, 3, 224, 224))).shape == (2, 5)


def test_head_is_replaced_or_appended(values: params_yaml.Values) -> None:
    replaced, appended = (
        classifier.build(cats_and_dogs(values, name="squeezenet1_1", head=head))
        for head in ("replace", "append")
    )
    assert isinstance(replaced.head, nn.Linear)
    assert (replaced.head.in_features, replaced.head.out_features) == (512, 2)
    assert isinstance(appended.head, nn.Sequential)
    assert [layer.weight.shape for layer in appended.head] == [(1000, 512), (2, 1000)]


def test_gray_images_are_repeated_as_color(values: params_yaml.Values) -> None:
    torch.manual_seed(0)
    backbone = classifier.build(cats_and_dogs(values, name=SMALL)).trunk
    gray = torch.rand(2, 1, 40, 40)
    color = gray.expand(-1, 3, -1, -1)
    torch.testing.assert_close(backbone.forward(gray), backbone.forward(color))


@pytest.mark.parametrize(
    ("changed", "pattern"),
    [
        ({"name": "resnet19"}, "models.torchvision.name is 'resnet19'; should be one of alexnet, "),
        (
            {"name": "vit_b_32"},
            r"model is 'torchvision', which .* inputs of shape \(3, 40, 40\): Wrong image",
        ),
    ],
)
def test_unknown_or_unfit_network_is_one_line(
    values: params_yaml.Values, changed: dict[str, str], pattern: str
) -> None:
    with pytest.raises(ParamsError, match=pattern) as raised:
        classifier.build(cats_and_dogs(values, **changed))
    assert "\n" not in str(raised.value)


def test_batch_norm_of_one_pixel_needs_two(
    values: params_yaml.Values,
) -> None:
    resnet = cats_and_dogs(values, name="resnet18")
    tiny = resnet.model_copy(update={"shape": (3, 32, 32)})
    for config, takes_one in (
        (cats_and_dogs(values, name=SMALL), True),
        (resnet, True),
        (tiny, False),
    ):
        assert classifier.takes_one(classifier.build(config), config) is takes_one
