"""A peer: the plain GPT in PyTorch, with fused attention and the fused AdamW."""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.bench import plain_gpt as gpt


class Block(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(gpt.D_MODEL), nn.LayerNorm(gpt.D_MODEL)
        self.qkv = nn.Linear(gpt.D_MODEL, 3 * gpt.D_MODEL, bias=False)
        self.output = nn.Linear(gpt.D_MODEL, gpt.D_MODEL, bias=False)
        self.up = nn.Linear(gpt.D_MODEL, gpt.D_FF, bias=False)
        self.down = nn.Linear(gpt.D_FF, gpt.D_MODEL, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        parts = self.qkv(self.norm_1(x)).view(batch, length, 3, gpt.HEADS, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(y.transpose(1, 2).reshape(batch, length, -1))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class PlainGPT(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(gpt.VOCAB, gpt.D_MODEL)
        self.positions = nn.Embedding(gpt.LENGTH, gpt.D_MODEL)
        self.blocks = nn.ModuleList(Block() for _ in range(gpt.LAYERS))
        self.norm = nn.LayerNorm(gpt.D_MODEL)
        self.logits = nn.Linear(gpt.D_MODEL, gpt.VOCAB, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # Outputs of residual layers are smaller, as in GPT-2.
                is_residual = name.endswith(("output.weight", "down.weight"))
                scale = (2 * gpt.LAYERS) ** -0.5 if is_residual else 1.0
                nn.init.normal_(parameter, std=gpt.INITIAL_STDDEV * scale)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        x = self.embedding(ids) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        logits = self.logits(self.norm(x)).flatten(0, 1)
        return F.cross_entropy(logits, targets.flatten(), reduction=reduction)


def main() -> None:
    options = gpt.parse_options()
    torch.manual_seed(options.seed)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = PlainGPT()
    gpt.count(sum(parameter.numel() for parameter in model.parameters()))
    matrices = [x for x in model.parameters() if x.ndim == 2]
    vectors = [x for x in model.parameters() if x.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": gpt.WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(gpt.BETA1, gpt.BETA2), eps=gpt.EPSILON, fused=True)

    def loss(batch: np.ndarray, reduction: str) -> torch.Tensor:
        ids = torch.from_numpy(batch).long()
        return model(ids[:, :-1], ids[:, 1:], reduction)

    def step(batch: np.ndarray, rate: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss(batch, "mean").backward()
        nn.utils.clip_grad_norm_(model.parameters(), gpt.CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def evaluate(batch: np.ndarray) -> float:
        with torch.no_grad():
            return float(loss(batch, "sum"))

    gpt.train(options, step, evaluate)


if __name__ == "__main__":
    main()
