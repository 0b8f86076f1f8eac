"""Models written with torch for :mod:`benchmarks.exports`: decoders with caches, U-Net, LSTM, speech."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x ** 2)) * weight`` over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions: halves of the last axis of ``x[b,h,s,d]`` turned by angles of ``positions[s]``."""
    half = x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
    angles = positions[:, None].float() * rates
    cos, sin = angles.cos(), angles.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class Attention(nn.Module):
    """Self-attention with a cache ``past[2,b,groups,before,d]``: every query sees itself and what was before.

    ``groups`` heads of keys and values are shared by ``heads`` of queries.
    """

    def __init__(self, width: int, heads: int, groups: int, rotary: bool) -> None:
        super().__init__()
        self.heads, self.groups, self.size, self.rotary = heads, groups, width // heads, rotary
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * groups * self.size)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, past: Tensor, positions: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        batch, steps, width = x.shape
        q = self.q(x).view(batch, steps, self.heads, self.size).transpose(1, 2)
        k, v = self.kv(x).view(batch, steps, 2, self.groups, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary:
            q, k = rotate(q, positions), rotate(k, positions)
        k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        present = torch.stack((k, v))
        if self.groups != self.heads:
            repeats = self.heads // self.groups
            k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        scores = q @ k.transpose(2, 3) * self.size**-0.5 + mask
        mixed = scores.softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(batch, steps, width)), present


class Gated(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Decoder(nn.Module):
    """A language model: ``ids[b,s]``, ``past[layers,2,b,groups,before,d]`` to logits and the longer cache.

    GPT-2's layers (learned positions, LayerNorm, GELU), or with ``rotary`` Llama's.
    """

    def __init__(
        self, vocabulary: int, width: int, heads: int, layers: int, hidden: int, groups: int = 0,
        rotary: bool = False, longest: int = 1024,
    ) -> None:  # fmt: skip
        super().__init__()
        norm = RMSNorm if rotary else nn.LayerNorm
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = None if rotary else nn.Embedding(longest, width)
        self.attention = nn.ModuleList(
            Attention(width, heads, groups or heads, rotary) for _ in range(layers)
        )
        self.feed = nn.ModuleList(
            Gated(width, hidden)
            if rotary
            else nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width)
            )
            for _ in range(layers)
        )
        self.before = nn.ModuleList(norm(width) for _ in range(2 * layers))
        self.last = norm(width)

    def forward(self, ids: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        before, steps = past.shape[4], ids.shape[1]
        positions = torch.arange(before, before + steps)
        seen = torch.arange(before + steps)[None, :] <= positions[:, None]
        mask = torch.where(seen, 0.0, -1e9)
        x = self.tokens(ids)
        if self.places is not None:
            x = x + self.places(positions)
        present = []
        for n, (attention, feed) in enumerate(zip(self.attention, self.feed, strict=True)):
            mixed, kept = attention(self.before[2 * n](x), past[n], positions, mask)
            x = x + mixed
            x = x + feed(self.before[2 * n + 1](x))
            present.append(kept)
        return self.last(x) @ self.tokens.weight.T, torch.stack(present)


class SpeechEncoder(nn.Module):
    """Whisper's encoder: two convolutions over ``mels[b,mels,frames]``, sinusoids, transformer layers."""

    def __init__(self, mels: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(mels, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.places = nn.Parameter(torch.randn(1500, width) * 0.1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, 0.0, functional.gelu, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.last = nn.LayerNorm(width)

    def forward(self, mels: Tensor) -> Tensor:
        x = functional.gelu(self.second(functional.gelu(self.first(mels)))).transpose(1, 2)
        x = x + self.places[: x.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.last(x)


class SpeechDecoder(nn.Module):
    """Whisper's decoder: causal over ``ids[b,s]``, with attention to ``audio[b,positions,width]``."""

    def __init__(self, vocabulary: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(448, width) * 0.1)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, heads, 4 * width, 0.0, functional.gelu, batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.last = nn.LayerNorm(width)

    def forward(self, ids: Tensor, audio: Tensor) -> Tensor:
        steps = ids.shape[1]
        places = torch.arange(steps)
        mask = torch.where(places[None, :] <= places[:, None], 0.0, -1e9)
        x = self.tokens(ids) + self.places[:steps]
        for layer in self.layers:
            x = layer(x, audio, tgt_mask=mask)
        return self.last(x) @ self.tokens.weight.T


def _double(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(),
        nn.Conv2d(cout, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU(),
    )  # fmt: skip


class UNet(nn.Module):
    """Three levels down and up. Images of any size: what pooling cut off is upsampled to the skip's size."""

    def __init__(self, cin: int, width: int, cout: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(_double(a, b) for a, b in zip([cin, *widths], widths, strict=False))
        self.turn = nn.ModuleList(nn.ConvTranspose2d(w, w // 2, 2, 2) for w in widths[:0:-1])
        self.up = nn.ModuleList(_double(w, w // 2) for w in widths[:0:-1])
        self.last = nn.Conv2d(width, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        for turn, block, skip in zip(self.turn, self.up, kept[-2::-1], strict=True):
            x = turn(x)
            x = functional.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = block(torch.cat((skip, x), 1))
        return self.last(x)


class Tagger(nn.Module):
    """Two bidirectional LSTM layers over ``ids[b,s]``, one row of scores a step."""

    def __init__(self, vocabulary: int, width: int, hidden: int, tags: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.steps = nn.LSTM(width, hidden, 2, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(2 * hidden, tags)

    def forward(self, ids: Tensor) -> Tensor:
        return self.tags(self.steps(self.tokens(ids))[0])
