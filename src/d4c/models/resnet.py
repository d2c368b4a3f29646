"""OpenAI's ModifiedResNet with attention pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from d4c.models.config import ResNetConfig
from d4c.models.layers import Add, MatMul, attend, split_heads


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Stem(nn.Module):
    """Three 3x3 convolutions, the first of stride 2, and a 2x2 average pool."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, width // 2, 3, 2), nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = conv(width // 2, width // 2, 3), nn.BatchNorm2d(width // 2)
        self.conv3, self.bn3 = conv(width // 2, width, 3), nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = self.bn3(self.conv3(x)).relu()
        return self.pool(x)


class Downsample(nn.Module):
    """The shortcut of a block that changes shape: average pool, 1x1 convolution, BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv, self.bn = conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(self.pool(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a shortcut; strides are average pools, not strided convolutions."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1, self.bn1 = conv(inputs, planes, 1), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = conv(planes, planes, 3), nn.BatchNorm2d(planes)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3, self.bn3 = conv(planes, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = Downsample(inputs, outputs, stride) if stride > 1 or inputs != outputs else None
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(self.pool(y)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.add(y, shortcut).relu()


class AttentionPool(nn.Module):
    """Attention whose only query is the mean token; `out` maps to the embedding."""

    def __init__(self, grid: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(grid**2 + 1, width) * width**-0.5)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, embed_dim)
        self.scores = MatMul()
        self.context = MatMul()
        self.fused = True

    def forward(self, x: Tensor) -> Tensor:
        """Feature map [N, C, H, W] to embedding [N, D]."""
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        q, k, v = (split_heads(t, self.heads) for t in (self.q(x[:, :1]), self.k(x), self.v(x)))
        return self.out(attend(self, q, k, v)).squeeze(1)


class ModifiedResNet(nn.Module):
    """Stem, four stages of bottlenecks in one list, attention pool."""

    def __init__(self, config: ResNetConfig, embed_dim: int) -> None:
        super().__init__()
        width = config.width
        self.stem = Stem(width)
        blocks: list[Bottleneck] = []
        inputs = width
        for stage, depth in enumerate(config.layers):
            for i in range(depth):
                planes = width * 2**stage
                blocks.append(Bottleneck(inputs, planes, 2 if stage and i == 0 else 1))
                inputs = planes * Bottleneck.expansion
        self.blocks = nn.ModuleList(blocks)
        self.pool = AttentionPool(config.image_size // 32, inputs, config.heads, embed_dim)

    def embed(self, pixels: Tensor) -> Tensor:
        """[N, 3, S, S] to the feature map that enters the first block."""
        return self.stem(pixels)

    def head(self, x: Tensor) -> Tensor:
        """The last feature map to the embedding [N, D]."""
        return self.pool(x)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalized pixels [N, 3, S, S] to embeddings [N, D], not normalized to unit length."""
        x = self.embed(pixels)
        for block in self.blocks:
            x = block(x)
        return self.head(x)
