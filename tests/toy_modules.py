"""
Tiny modules that belong to no library: what the block rules must cope with when nothing helps them.

`toys` has them in its table; this module knows nothing about the table or the package under test.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NUM_LABELS = 3
VOCABULARY = 64


class PlainBlock(nn.Module):
    """Residual block of two convolutions, `(batch, width, h, w)` to `(batch, out, h / stride, w / stride)`."""

    def __init__(self, width: int, out: int, stride: int = 1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        same = stride == 1 and width == out
        self.downsample = None if same else nn.Conv2d(width, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """One residual step."""
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu(skip + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class PlainResNet(nn.Module):
    """ResNet of the CIFAR kind: `conv1`, `layer1` ... `layer3`, `fc`, with no library behind it."""

    def __init__(self, widths: tuple[int, ...] = (8, 12, 16), depth: int = 2):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        before = widths[0]
        for stage, width in enumerate(widths, start=1):
            first = PlainBlock(before, width, stride=1 if stage == 1 else 2)
            rest = [PlainBlock(width, width) for _ in range(depth - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
            before = width
        self.stages = len(widths)
        self.fc = nn.Linear(before, NUM_LABELS)

    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape `(batch, 3, h, w)` to logits of shape `(batch, NUM_LABELS)`."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class HeadListBlock(nn.Module):
    """Attention whose heads are a list of modules with several weights each: they are no blocks."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        parts, width = ("query", "key", "value"), dim // heads
        self.attention = nn.ModuleList(
            nn.ModuleDict({part: nn.Linear(dim, width) for part in parts}) for _ in range(heads)
        )
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """`x` of shape `(batch, seq, dim)` to the same shape."""
        h, outs = self.norm(x), []
        for head in self.attention:
            outs.append(nn.functional.scaled_dot_product_attention(head["query"](h), head["key"](h), head["value"](h)))
        x = x + torch.cat(outs, -1)
        return x + self.mlp(x)


class HeadListTransformer(nn.Module):
    """Text classifier of `HeadListBlock`s; takes `x`, token ids of shape `(batch, seq)`."""

    def __init__(self, dim: int = 16, depth: int = 3, heads: int = 2):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, dim)
        self.layers = nn.ModuleList(HeadListBlock(dim, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, NUM_LABELS)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of shape `(batch, NUM_LABELS)`."""
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def sequential_net() -> nn.Sequential:
    """Names that are nothing but numbers: stem `0`, blocks `1` ... `4`, pooling, head `7`."""
    blocks = (PlainBlock(8, 8), PlainBlock(8, 8), PlainBlock(8, 12, 2), PlainBlock(12, 12))
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, NUM_LABELS)
    )
