"""The attention pair that residual mining and anomaly feature learning are two instances of."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Proxies read from keys and values; residual connection, then LayerNorm."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        _initialise(self.multihead_attn)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Update proxies (B, Q, C) from keys and values (B, L, C); ``bias`` (B * heads, Q, L) adds to the scores.

        Multi-head attention with its matrix products regrouped: there are far fewer proxies than keys, so a head's key
        matrix is applied to the proxies, and its value matrix to what they read. The bias of the keys adds the same to
        every score of a proxy, which softmax ignores.
        """
        attention = self.multihead_attn
        heads, width = attention.num_heads, attention.head_dim
        ask, keep, read = attention.in_proj_weight.unflatten(0, (3, heads, width))
        ask_bias, _, read_bias = attention.in_proj_bias.unflatten(0, (3, heads, width))
        asked = torch.einsum("bqc,hdc->bhqd", query, ask) + ask_bias[:, None]
        score = (asked @ keep * width**-0.5) @ key[:, None].transpose(-1, -2)
        if bias is not None:
            score = score + bias.unflatten(0, (-1, heads))
        seen = score.softmax(dim=-1) @ value[:, None]
        answer = torch.einsum("bhqc,hdc->bqhd", seen, read) + read_bias
        return self.norm(query + attention.out_proj(answer.flatten(-2)))


class SelfAttention(nn.Module):
    """Proxies exchange what they read; residual connection, then LayerNorm."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        _initialise(self.self_attn)

    def forward(self, proxies: Tensor) -> Tensor:
        """Update proxies (B, Q, C)."""
        read, _ = self.self_attn(proxies, proxies, proxies, need_weights=False)
        return self.norm(proxies + read)


def _initialise(attention: nn.MultiheadAttention) -> None:
    # Section 7: both matrices Xavier-uniform, the packed one as a whole; torch leaves the output matrix otherwise.
    nn.init.xavier_uniform_(attention.in_proj_weight)
    nn.init.xavier_uniform_(attention.out_proj.weight)
