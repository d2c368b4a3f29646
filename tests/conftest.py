"""What all tests share."""

from __future__ import annotations

import copy
import gc
import importlib.util
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import settings
from numpy.typing import NDArray
from torch import nn

import d4c
from d4c.calibration.images import CalibrationSet
from d4c.models.clip import CLIP
from d4c.models.config import CLIPConfig
from d4c.models.formats import load as load_module
from d4c.models.formats.beside.image_processor import HALF
from d4c.models.formats.beside.own_tokenizer import TokenizerFiles
from d4c.models.formats.siglip.siglip_configs import LAST, LATENT
from d4c.models.layers import MLP
from d4c.models.tower_config import NoImageConfig, NoTextConfig, ResNetConfig, TextConfig, ViTConfig

# open_clip and transformers import torchvision, whose wheels for CUDA miss two operators beside a CPU build of
# torch and fail at import; declaring them is enough, no test calls them. Beside a CUDA build they are there, also
# without a GPU, and a second declaration would end the process.
if importlib.util.find_spec("torchvision") and torch.version.cuda is None:
    _TORCHVISION = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _TORCHVISION.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

# The models of the tests are small: more threads cost more than they give, above all beside other test processes.
torch.set_num_threads(1)

# How long an example takes says how busy the machine is, not whether the law holds.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As under nohup: child processes would inherit it, and tests press Ctrl-C in some.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "slow: takes more than some seconds or a gigabyte; run with -m slow")


def pytest_collection_finish() -> None:
    """Leave the modules and the tests, half a million objects, out of all later searches for garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers, alone or in company."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", params=["demo-vit", "demo-rn"])
def demo(request: pytest.FixtureRequest) -> CLIP:
    """Each embedded model; tests must not change it."""
    return d4c.load(request.param)


@pytest.fixture(scope="session")
def demo_vit() -> CLIP:
    """The embedded vision transformer; tests must not change it."""
    return d4c.load("demo-vit")


@pytest.fixture(scope="session")
def demo_rn() -> CLIP:
    """The embedded ResNet; tests must not change it."""
    return d4c.load("demo-rn")


@pytest.fixture(scope="session")
def leaves(demo_vit: CLIP) -> CalibrationSet:
    """Dead leaves for the embedded transformer."""
    return d4c.synthesize(demo_vit, "leaves", images=8, seed=5)


@pytest.fixture(scope="session")
def prompted(demo_vit: CLIP) -> CalibrationSet:
    """Images with prompts, some steps on the way to them."""
    return d4c.synthesize(
        demo_vit, "pgsi", "quick", images=6, iterations=3, prompts=["dog", "cat", "tree", "car", "ship", "apple"]
    )


def shortened(clip: CLIP, blocks: int) -> CLIP:
    """Leave only the first blocks of each tower; of a ResNet the first of each stage, and one more that keeps the size.

    Depth costs time, and few laws need it.
    """
    image = clip.config.image
    if isinstance(image, ResNetConfig):
        assert image.layers[0] >= 2
        starts = [sum(image.layers[:stage]) for stage in range(4)]
        clip.image.blocks = nn.ModuleList(clip.image.blocks[i] for i in sorted({1, *starts}))
        clip.config = replace(clip.config, image=replace(image, layers=(2, 1, 1, 1)))
    elif isinstance(image, ViTConfig):
        clip.image.blocks = clip.image.blocks[:blocks]
        clip.config = replace(clip.config, image=replace(image, layers=len(clip.image.blocks)))
    clip.text.blocks = clip.text.blocks[:blocks]
    clip.config = replace(clip.config, text=replace(clip.config.text, layers=len(clip.text.blocks)))
    return clip


@pytest.fixture(scope="session")
def shorten() -> Callable[[CLIP, int], CLIP]:
    return shortened


@pytest.fixture(scope="session")
def short_vit() -> CLIP:
    """Three blocks of each tower of the embedded vision transformer; tests must not change it."""
    return shortened(d4c.load("demo-vit"), 3)


@pytest.fixture(scope="session", params=["demo-vit", "demo-rn"])
def short(request: pytest.FixtureRequest) -> CLIP:
    """The same of each embedded model; tests must not change it."""
    return shortened(d4c.load(request.param), 3)


@pytest.fixture(scope="module")
def two_blocks() -> Iterator[None]:
    """Loading gives the first two blocks of each tower: for whole jobs."""

    def load_two_blocks(*arguments: Any, **settings: Any) -> CLIP:
        clip = load(*arguments, **settings)
        return shortened(clip, 2) if clip.name in ("demo-vit", "demo-rn") else clip

    load = load_module.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load_module, "load", load_two_blocks)
        yield


@pytest.fixture(scope="session")
def siglip_tokenizer_json() -> str:
    """A tokenizer.json as T5 and SigLIP have it: unigram pieces, </s> at the end."""
    words = ["▁a", "▁photo", "▁of", "▁cat", "▁dog", "▁the", "▁", "s", *"abcdefghijklmnopqrstuvwxyz0123456789."]
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((word, -1.0 - len(words) / 10 - i / 10) for i, word in enumerate(words))]
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram(list(dict(pieces).items()), unk_id=0))
    unigram.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    unigram.post_processor = tokenizers.processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    unigram.add_special_tokens(["</s>", "<unk>"])
    return unigram.to_str()


@pytest.fixture(scope="session")
def tiny_siglip(siglip_tokenizer_json: str, tmp_path_factory: pytest.TempPathFactory) -> CLIP:
    """A SigLIP with random weights: no class token, an attention pool, no causal mask; tests must not change it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text(siglip_tokenizer_json)
    (folder / "tokenizer_config.json").write_text('{"pad_token": "</s>"}')
    image = ViTConfig(32, 8, 32, 2, 4, 80, "gelu_tanh", norm_eps=1e-6, **LATENT)
    text = TextConfig(32, 2, 4, 80, "gelu_tanh", context_length=24, vocab_size=60, norm_eps=1e-6, **LAST)
    config = CLIPConfig(32, image, text, HALF, HALF, "squash", sigmoid=True)
    torch.manual_seed(5)
    clip = CLIP(config, "tiny-siglip", tokenizer=TokenizerFiles(folder, "canonical").read(text, "tiny"))
    for parameter in clip.parameters():
        if parameter.ndim > 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return clip.eval().requires_grad_(False)


def lone(clip: CLIP) -> CLIP:
    """A model of one tower, with norms and positions of some size."""
    for name, parameter in clip.named_parameters():
        if "norm" in name or "positional" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return clip.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def lone_image() -> CLIP:
    """An image tower alone, with a projection and random weights; tests must not change it."""
    torch.manual_seed(6)
    image = ViTConfig(16, 8, 32, 3, 2, 64, all_states=True)
    return lone(CLIP(CLIPConfig(24, image, NoTextConfig()), "lone"))


@pytest.fixture(scope="session")
def lone_text() -> CLIP:
    """A text tower alone, without a projection and with random weights; tests must not change it."""
    torch.manual_seed(7)
    text = TextConfig(16, 3, 2, 32, context_length=20, projection=False, pad_id=49407, all_states=True)
    return lone(CLIP(CLIPConfig(16, NoImageConfig(), text), "lone"))


@pytest.fixture(scope="session")
def loud_vit(demo_vit: CLIP) -> CLIP:
    """The embedded vision transformer with a hidden neuron, 7 of block 2, that fires for the class token at about 60.

    Real towers have such neurons. What reads it is small, so that the residual stays. Tests must not change it.
    """
    clip = copy.deepcopy(demo_vit)
    mlp = clip.get_submodule("image.blocks.2.mlp")
    assert isinstance(mlp, MLP)
    seen: list[torch.Tensor] = []
    handle = mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        clip.encode_image(d4c.synthesize(clip, "leaves", images=16, seed=9).pixels)
        handle.remove()
        token, patches = seen[0][:, 0], seen[0][:, 1:].flatten(0, 1)
        direction = token.mean(0) - patches.mean(0)
        height, others = (token @ direction).mean(), (patches @ direction).quantile(0.999)
        mlp.fc1.weight[7] = direction * 70 / (height - others)
        mlp.fc1.bias[7] = -10 - others * 70 / (height - others)
        mlp.fc2.weight[:, 7] *= 0.02
    return clip


@pytest.fixture(scope="session")
def saturating_product() -> Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]:
    """What x86 processors without VNNI compute from codes a [..., N, K] and w [..., O, K] instead of a w^T.

    vpmaddubsw multiplies unsigned by signed bytes and adds two adjacent products in 16 bits, where the sum saturates;
    the sums of pairs are then added in 32 bits. An odd last column is paired with zero.
    """

    def product(a: NDArray[np.int64], w: NDArray[np.int64]) -> NDArray[np.int64]:
        assert a.min() >= 0
        assert a.max() <= 255
        assert w.min() >= -128
        assert w.max() <= 127
        a, w = (np.pad(codes, [(0, 0)] * (codes.ndim - 1) + [(0, codes.shape[-1] % 2)]) for codes in (a, w))
        products = a[..., :, None, :] * w[..., None, :, :]
        return np.clip(products[..., ::2] + products[..., 1::2], -(2**15), 2**15 - 1).sum(-1)

    return product
