"""timm's networks as backbones."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import cats_and_dogs
from safetensors.torch import save_file
from torch import nn

from lab.models import backbone, classifier, pretrained
from lab.models.networks import timm
from retrace.errors import ParamsError
from retrace.pipeline import params_yaml

SMALL = "test_efficientnet"  # 0.4 million weights

FAMILIES = (
    "convnext_atto",
    "densenet121",
    "efficientnet_lite0",
    "ghostnet_050",
    "inception_v3",
    "maxvit_rmlp_pico_rw_256",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "pvt_v2_b2_li",  # an average pool to 7 x 7 pixels
    "regnetx_002",
    "resnet18.a1_in1k",
    "resnetv2_50",
    "swin_tiny_patch4_window7_224",
    "vgg11",
    "vit_tiny_patch16_224",
)

Networks = Callable[..., Any]


@pytest.fixture(scope="module")
def network() -> Networks:
    """Return a function for timm's own network with drawn weights, in evaluation mode."""
    import timm as library

    def create(name: str, **settings: Any) -> nn.Module:
        torch.manual_seed(1)
        return library.create_model(name, **settings).eval()

    return create


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_backbone_and_head(name: str) -> None:
    import timm as library

    config = library.get_pretrained_cfg(name)
    assert config is not None
    shape = config.input_size
    # Shapes alone. RegNet computes its own widths with tensors.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        trunk, head = timm.build(shape, 5, name=name, head="replace")
        assert head(trunk.eval()(torch.empty(2, *shape))).shape == (2, 5)


@pytest.mark.usefixtures("folder")
def test_logits_are_timms(values: params_yaml.Values, network: Networks) -> None:
    theirs = network(SMALL, num_classes=2)
    ours = classifier.build(cats_and_dogs(values, "timm", name=SMALL))
    ours.trunk.network.load_state_dict(theirs.state_dict(), strict=False)  # pyright: ignore
    ours.head.load_state_dict(theirs.classifier.state_dict())
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images / 255))


def test_head_is_replaced_or_appended(values: params_yaml.Values) -> None:
    replaced, appended = (
        classifier.build(cats_and_dogs(values, "timm", name=SMALL, head=head))
        for head in ("replace", "append")
    )
    assert isinstance(replaced.head, nn.Linear)
    assert replaced.head.out_features == 2
    assert isinstance(appended.head, nn.Sequential)
    n_features = replaced.head.in_features
    assert [layer.weight.shape for layer in appended.head] == [(1000, n_features), (2, 1000)]


def test_scale_is_the_networks_own() -> None:
    inception, _ = timm.build((3, 299, 299), 2, name="inception_v4", head="replace")
    assert isinstance(inception, backbone.Backbone)
    assert inception.scale.mean == inception.scale.std == (127.5,) * 3


@pytest.mark.parametrize(
    ("changed", "pattern"),
    [
        (
            {"name": "efficientnet_lit0"},
            "models.timm.name is .* did you mean efficientnet_lite0 or",
        ),
        ({"name": "resnet18.a9_in1k"}, "models.timm.name is 'resnet18.a9_in1k'"),
        ({"name": "hf-hub:a/b"}, "models.timm.name is 'hf-hub:a/b'"),
        ({"name": "vit_tiny_patch16_224"}, "takes images of 224 x 224 pixels only, not 40 x 40"),
        ({"name": "resnet50_clip_gap", "head": "append"}, "models.timm.head is 'append'"),
    ],
)
def test_unknown_or_unfit_network_is_one_line(
    values: params_yaml.Values, changed: dict[str, str], pattern: str
) -> None:
    with pytest.raises(ParamsError, match=pattern) as raised:
        classifier.build(cats_and_dogs(values, "timm", **changed))
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("head", ["replace", "append"])
def test_file_of_timms_weights_fits(
    values: params_yaml.Values, network: Networks, head: str
) -> None:
    theirs = network(SMALL)
    save_file(theirs.state_dict(), "w.safetensors")
    model = classifier.build(cats_and_dogs(values, "timm", name=SMALL, head=head))
    pretrained.load_into(model, name_after_digest("w.safetensors"))
    images = torch.rand(2, 3, 40, 40)
    outputs = model.head[0] if head == "append" else theirs.classifier  # pyright: ignore
    with torch.no_grad():
        torch.testing.assert_close(outputs(model.trunk.eval()(images)), theirs(images))


def name_after_digest(file: str) -> str:
    """Rename a file after its digest, as `pretrained` requires, and return its name."""
    path = Path(file)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    return path.rename(path.with_stem(f"{path.stem}-{digest}")).name


def test_weights_of_an_older_version_fit(network: Networks) -> None:
    """Converted by timm: here, position embeddings of larger images."""
    trunk, _ = timm.build((3, 160, 160), 2, name="test_vit", head="replace")
    assert isinstance(trunk, backbone.Backbone)
    larger = network("test_vit", img_size=224).state_dict()
    rng_state = torch.get_rng_state()
    renamed = trunk.renamed(larger)
    assert torch.equal(torch.get_rng_state(), rng_state)
    own = trunk.network.state_dict()
    assert {f"trunk.network.{name}" for name in own} <= set(renamed)
    assert renamed["trunk.network.pos_embed"].shape == own["pos_embed"].shape
    assert not trunk.renamed({})


def test_weights_of_another_network_are_refused(network: Networks) -> None:
    trunk, _ = timm.build((3, 160, 160), 2, name="test_vit", head="replace")
    assert isinstance(trunk, backbone.Backbone)
    other = network(SMALL).state_dict()
    with pytest.raises(ParamsError, match="for test_vit .*: .*; choose the model of") as error:
        trunk.renamed(other)
    assert "\n" not in str(error.value)


def test_default_has_a_digest_in_its_address() -> None:
    lite, _ = timm.build((3, 32, 32), 2, name="efficientnet_lite0", head="replace")
    assert isinstance(lite, backbone.Backbone)
    assert lite.address().endswith("efficientnet_lite0_ra-37913777.pth")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        (SMALL, "pretrained is 'DEFAULT'.* set pretrained to a file or none"),
        (
            "efficientnet_b0.ra4_e3600_r224_in1k",
            "set models.timm.name to one of efficientnet_b0.ra_",
        ),
    ],
)
def test_default_without_a_digest_is_refused(name: str, pattern: str) -> None:
    trunk, _ = timm.build((3, 64, 64), 2, name=name, head="replace")
    assert isinstance(trunk, backbone.Backbone)
    with pytest.raises(ParamsError, match=pattern):
        trunk.address()


def test_timm_is_imported_only_if_chosen() -> None:
    source = """
import sys
from lab.models import classifier, initialization
from lab.models.networks import MODELS
MODELS["cnn"]((1, 28, 28), 10, channels=[1, 1], kernel_size=3, hidden=1)
print(*{"timm", "torchvision"} & set(sys.modules))
"""
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, check=True)
    assert ended.stdout.strip() == b""
