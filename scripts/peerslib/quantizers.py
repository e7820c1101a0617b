"""Quantizers of activations as PyTorch users write them, each a module behind (or in place of) an activation function.

What a module learns or holds fixed follows from the first batch that it sees, so that a network is called once before
its optimizers are made.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Fixed(nn.Module):
    """torch.ao's FakeQuantize, per tensor, its scale fixed by the first batch."""

    def __init__(self, bits=4):
        super().__init__()
        from torch.ao.quantization import FakeQuantize, MinMaxObserver

        self.quantize = FakeQuantize(observer=MinMaxObserver, quant_min=0, quant_max=2**bits - 1, dtype=torch.quint8)
        self.seen = False

    def forward(self, x):
        x = self.quantize(x)
        if not self.seen:
            self.quantize.disable_observer()
            self.seen = True
        return x


class Lsq(nn.Module):
    """Learned step size quantization (Esser et al., arXiv 1902.08153) as its published implementations spell it."""

    def __init__(self, bits=4):
        super().__init__()
        self.levels = 2**bits - 1
        self.step = None

    def forward(self, x):
        if self.step is None:
            self.step = nn.Parameter(2 * x.detach().abs().mean() / math.sqrt(self.levels))
        scale = 1 / math.sqrt(x.numel() * self.levels)
        step = (self.step - self.step * scale).detach() + self.step * scale
        z = (x / step).clamp(0, self.levels)
        z = (z.round() - z).detach() + z
        return z * step


class StepRange(torch.autograd.Function):
    """Learned step and range with straight-through gradients (Uhlich et al., arXiv 1905.11452, eq. 3c)."""

    @staticmethod
    def forward(ctx, z, step, limit):
        out = (torch.round(z / step) * step).clamp(-limit, limit)
        ctx.save_for_backward(z, out, step, limit)
        return out

    @staticmethod
    def backward(ctx, grad):
        z, out, step, limit = ctx.saved_tensors
        inside = z.abs() <= limit
        kept = grad * inside
        grad_step = (kept * (out - z) / step).sum()
        grad_limit = (grad * z.sign() * ~inside).sum()
        return kept, grad_step, grad_limit


class PcaGroups(nn.Module):
    """PCA of all channels, contiguous groups of coefficients with a learned step and range each, and the way back."""

    def __init__(self, groups=4):
        super().__init__()
        self.groups = groups
        self.step = None

    def _prepare(self, x):
        """Basis, mean and 8-bit ranges of the batch `x`, `[batch, channels, height, width]`."""
        rows = x.detach().movedim(1, -1).flatten(0, -2)
        mean = rows.mean(0)
        centred = rows - mean
        variances, basis = torch.linalg.eigh(centred.T @ centred / len(rows))
        basis = basis.flip(1)
        channels = len(mean)
        self.sizes = [len(part) for part in torch.arange(channels).tensor_split(min(self.groups, channels))]
        self.register_buffer("analysis", basis.T.reshape(channels, channels, 1, 1).contiguous())
        self.register_buffer("synthesis", basis.reshape(channels, channels, 1, 1).contiguous())
        self.register_buffer("offset", -(basis.T @ mean))
        self.register_buffer("mean", mean)
        deviations = variances.flip(0).clamp(min=1e-8).sqrt().split(self.sizes)
        limit = torch.stack([4 * part.max() for part in deviations])
        self.limit = nn.Parameter(limit)
        self.step = nn.Parameter(limit / 127)
        self.values = x.shape[2] * x.shape[3] * torch.tensor(self.sizes, dtype=torch.float32)

    def forward(self, x):
        if self.step is None:
            self._prepare(x)
        z = F.conv2d(x, self.analysis, self.offset)
        parts = [StepRange.apply(part, self.step[g], self.limit[g]) for g, part in enumerate(z.split(self.sizes, 1))]
        return F.conv2d(torch.cat(parts, 1), self.synthesis, self.mean)

    def bits(self):
        """The bits of an image, differentiable."""
        return (self.values * (torch.log2(self.limit / self.step + 1) + 1)).sum()

    @torch.no_grad()
    def bound(self):
        """Keeps steps above zero and ranges above half a step."""
        self.step.clamp_(min=1e-6)
        self.limit.copy_(torch.maximum(self.limit, self.step / 2))
