"""The ResNet of CLIP: OpenAI's ModifiedResNet with attention pooling."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from d4c.models.anatomy import ChannelAxis, Patches, Positions, Published, SharedInput
from d4c.models.layers import Add, AttentionProducts, MatMul, WeightedSum, attend, split_heads
from d4c.models.tower import Part, Tower, drawn
from d4c.models.tower_config import ResNetConfig


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias whose padding keeps the size at stride 1."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Stem(Part):
    """Three 3x3 convolutions, the first with stride 2, and a 2x2 average pool."""

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

    def channel_axes(self) -> list[ChannelAxis]:
        return hidden_axes()

    def batch_norms(self) -> list[tuple[str, str]]:
        return [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")]


def hidden_axes() -> list[ChannelAxis]:
    """Return the two axes between three convolutions with a ReLU after the first and the second."""
    return [ChannelAxis(f"hidden{i}", (f"conv{i}",), readers=(f"conv{i + 1}",), positive=True) for i in (1, 2)]


class Downsample(Part):
    """The shortcut of a block that changes the shape: average pool, 1x1 convolution, BatchNorm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv, self.bn = conv(inputs, outputs, 1), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(self.pool(x)))

    def batch_norms(self) -> list[tuple[str, str]]:
        return [("conv", "bn")]

    @property
    def first(self) -> str:
        """Name of the layer that reads the input of the shortcut."""
        return "conv" if isinstance(self.pool, nn.Identity) else "pool"


class Bottleneck(Part):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; average pools take the place of strided convolutions."""

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

    def shared_inputs(self) -> list[SharedInput]:
        shortcut = ("add", 1) if self.downsample is None else (f"downsample.{self.downsample.first}", 0)
        return [SharedInput((("conv1", 0), shortcut))]

    def channel_axes(self) -> list[ChannelAxis]:
        return hidden_axes()

    def batch_norms(self) -> list[tuple[str, str]]:
        return [("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")]


class AttentionPool(AttentionProducts):
    """Attention whose only query is the mean of all positions; `out` maps to the embedding.

    Args:
        grid: Side of the square feature map.
        width: Channels of the feature map.
        heads: Attention heads.
        embed_dim: Width of the embedding.
    """

    def __init__(self, grid: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = drawn(grid**2 + 1, width, std=width**-0.5)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, embed_dim)
        self.scores = MatMul()
        self.context = WeightedSum()

    def forward(self, x: Tensor) -> Tensor:
        """Map a feature map [N, C, H, W] to embeddings [N, D]."""
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        q, k, v = (split_heads(t, self.heads) for t in (self.q(x[:, :1]), self.k(x), self.v(x)))
        return self.out(attend(self, q, k, v)).squeeze(1)

    def each(self, x: Tensor) -> Tensor:
        """Map a feature map [N, C, H, W] to embeddings [N, H W, D], as if the query attended to one position only."""
        return self.out(self.v(x.flatten(2).transpose(1, 2) + self.positional_embedding[1:]))

    def shared_inputs(self) -> list[SharedInput]:
        return [SharedInput(group.readers, of_one_row=("q",)) for group in super().shared_inputs()]


class ModifiedResNet(Tower):
    """Stem, four stages of bottlenecks in one list, attention pool.

    The deployable track keeps the stem at 8 bits: it has less than a thousandth of the weights and causes most of the
    loss at 4 bits. It also keeps at 8 bits the states between bottlenecks, whose rounding errors every later block
    inherits, and the inputs of average pools.

    Args:
        config: The architecture.
        embed_dim: Width D of the embeddings.
    """

    embed_parts = ("stem",)
    head_parts = ("pool",)
    first_layer = "stem.conv1"
    costly_parts = ("stem", "pool")
    eight_bit_layers = (
        "stem.conv?",
        "stem.pool",
        "blocks.*.{add,pool,downsample.pool}",
        "pool.out",
    )
    published = Published(layers=r"blocks\.\d+\.(?!downsample\.).*|pool\..*", unit="block")

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

    def embed(self, inputs: Tensor) -> Tensor:
        """Map pixels [N, 3, S, S] to the feature map [N, C, S / 4, S / 4] that enters the first block."""
        return self.stem(inputs)

    def head(self, x: Tensor, inputs: Tensor) -> Tensor:
        """Map the last feature map [N, C, S / 32, S / 32] to embeddings [N, D]."""
        return self.pool(x)

    def patch_embeddings(self, inputs: Tensor) -> Tensor:
        """Map pixels [N, 3, S, S] to embeddings [N, P, D] of the positions of the last feature map."""
        *_, x = self.states(inputs)
        return self.pool.each(x)

    def patches(self) -> Patches:
        """Return the positions of the last feature map, which the pool reads as rows that follow their mean."""
        return Patches((), first=0, summary="pool", summary_first=1)

    @property
    def positions(self) -> Positions:
        return Positions("pool.positional_embedding", 1, 32)

    def channel_axes(self) -> list[ChannelAxis]:
        return [*super().channel_axes(), *self._residual_axes()]

    def _residual_axes(self) -> Iterator[ChannelAxis]:
        """Yield the residual stream of each stage: from the layers that open it to the next shortcut or the pool."""
        name, writers, readers = "stem.stream", ["stem.conv3"], list[str]()
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Bottleneck)
            readers.append(f"blocks.{i}.conv1")
            if block.downsample is not None:
                readers.append(f"blocks.{i}.downsample.conv")
                yield ChannelAxis(name, tuple(writers), tuple(readers), positive=True)
                name, writers, readers = f"blocks.{i}.stream", [f"blocks.{i}.downsample.conv"], []
            writers.append(f"blocks.{i}.conv3")
        writers.append("pool.positional_embedding")
        yield ChannelAxis(name, tuple(writers), (*readers, "pool.q", "pool.k", "pool.v"), positive=True)
