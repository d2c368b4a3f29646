"""Makes the working copy of the model: on the device, in the configured precision, without weight gradients."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.deterministic
from torch import Tensor, nn

from d4c.compiled import can_compile, compile_part
from d4c.device import move
from d4c.models.clip import CLIP
from d4c.models.layers import MLP, Attention, Block, QuickGELU, flat_patches, join_heads, split_heads
from d4c.models.tower import Tower, replace_module
from d4c.synthesis.config import Precision, SynthesisConfig
from d4c.synthesis.tower.cpu import fold_batchnorms, product, use_products
from d4c.synthesis.tower.ordered_attention import by_products, self_attention

QUICK_GELU = 1.702


def working_copy(clip: CLIP, device: str | torch.device | None) -> CLIP:
    """Copy a CLIP, in evaluation mode and without weight gradients.

    Args:
        clip: The model.
        device: Device of the copy, by default that of the model.

    Returns:
        The copy.

    Raises:
        SettingError: The device cannot be used.
    """
    model = move(copy.deepcopy(clip), clip.device if device is None else device)
    return model.eval().requires_grad_(False)


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """Resolve "auto" for a device: bf16 where it has bf16 arithmetic, as GPUs and some processors do."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every supported PyTorch
        fast = device.type == "cpu" and any(features.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return "bf16" if fast else "float32"


class PatchProduct(nn.Module):
    """A convolution whose stride is its kernel, as one matrix product; so is the gradient of its input."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.side = conv.kernel_size[0]
        self.weight = nn.Parameter(conv.weight.flatten(1), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), requires_grad=False)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = flat_patches(pixels, self.side)
        return product(patches, self.weight, self.bias).permute(0, 3, 1, 2)


class JointAttention(nn.Module):
    """Self-attention whose q, k and v come from one matrix product."""

    def __init__(self, attn: Attention) -> None:
        super().__init__()
        self.heads, self.out = attn.heads, attn.out
        parts = (attn.q, attn.k, attn.v)
        self.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
        self.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        return self.out(self_attention(F.linear(x, self.weight, self.bias), self.heads))


class HostAttention(JointAttention):
    """`JointAttention` for a CPU, where in bf16 the gradient of PyTorch's fused kernel is slower than of products."""

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        qkv = product(x, self.weight, self.bias)
        q, k, v = (split_heads(part, self.heads) for part in qkv.chunk(3, -1))
        attend = by_products if x.dtype == torch.bfloat16 else F.scaled_dot_product_attention
        return self.out(join_heads(attend(q, k, v)))


class LastBlock(nn.Module):
    """The last block for the class token only, which alone reaches the embedding: [N, L, C] to [N, 1, C]."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        norm1, attn, norm2, mlp = self.block.norm1, self.block.attn, self.block.norm2, self.block.mlp
        y = norm1(x)
        q, k, v = (split_heads(t, attn.heads) for t in (attn.q(y[:, :1]), attn.k(y), attn.v(y)))
        cls = x[:, :1] + attn.out(join_heads(by_products(q, k, v)))
        return cls + mlp(norm2(cls))


def speed_up(model: CLIP, config: SynthesisConfig) -> None:
    """Make the image tower of a working copy faster, in place; its function stays the same up to rounding.

    Patches and q, k, v each come from one product; the last block computes the class token only; x sigmoid(1.702 x)
    becomes SiLU(1.702 x) / 1.702, one kernel with the factors in the weights around it. On a CPU products are those of
    oneDNN, kernels have its preferred layout, and BatchNorm is folded into the convolutions. In bf16 all parameters are
    bf16 except those of a remaining BatchNorm, whose statistics need more digits. On a GPU the parts of the tower are
    compiled. For methods that read inner layers the tower keeps its parts and is not compiled.

    Args:
        model: The working copy.
        config: The settings, with a resolved precision.
    """
    tower, may_restructure, cpu = model.image, not config.needs.inner_layers, model.device.type == "cpu"
    if may_restructure:
        restructure(tower, HostAttention if cpu else JointAttention)
    if cpu:
        use_products(tower)
        if may_restructure:
            fold_batchnorms(tower)
        tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.precision == "bf16":
        for module in tower.modules():
            if not isinstance(module, nn.BatchNorm2d):
                to_bf16(module)
    if model.device.type == "cuda" and can_compile() and may_restructure:
        for part in (*tower.blocks, *map(tower.get_submodule, tower.costly_parts)):
            compile_part(part)


def restructure(tower: Tower, attention: type[JointAttention]) -> None:
    """Replace patch embedding, activations and attention by faster modules."""
    first = tower.get_submodule(tower.first_layer)
    if isinstance(first, nn.Conv2d) and first.stride == first.kernel_size:
        replace_module(tower, tower.first_layer, PatchProduct(first))
    for module in tower.modules():
        if isinstance(module, MLP):
            simplify_activation(module)
    for i, block in enumerate(tower.blocks):
        if not isinstance(block, Block):
            continue
        if i == len(tower.blocks) - 1 and tower.embedding_row == 0:
            tower.blocks[i] = LastBlock(block)
        else:
            block.attn = attention(block.attn)  # type: ignore[assignment]


def simplify_activation(mlp: MLP) -> None:
    if isinstance(mlp.act, QuickGELU):
        mlp.act = nn.SiLU()
        mlp.fc1.weight.mul_(QUICK_GELU)
        mlp.fc1.bias.mul_(QUICK_GELU)
        mlp.fc2.weight.div_(QUICK_GELU)


def to_bf16(module: nn.Module) -> None:
    """Convert the direct parameters of a module to bf16, kernels in the layout in which GPUs convolve fast."""
    for parameter in module.parameters(recurse=False):
        kernel = parameter.ndim == 4
        layout = torch.channels_last if kernel else torch.contiguous_format
        parameter.data = parameter.data.to(torch.bfloat16, memory_format=layout)


@contextmanager
def reproducible(precision: Precision) -> Iterator[None]:
    """Make results the same in every run on a device while the block runs; with bf16, float32 products may use TF32.

    Kernels that have a deterministic form use it.
    """
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    fill, tf32 = settings.fill_uninitialized_memory, torch.backends.cuda.matmul.allow_tf32
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        settings.fill_uninitialized_memory = False
        torch.backends.cuda.matmul.allow_tf32 = tf32 or precision == "bf16"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])
        settings.fill_uninitialized_memory = fill
        torch.backends.cuda.matmul.allow_tf32 = tf32
