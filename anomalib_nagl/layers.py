"""The attention pair that residual mining and anomaly feature learning are two instances of."""

from __future__ import annotations

from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Proxies read from keys and values; residual connection, then LayerNorm."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.multihead_attn = nn.MultiheadAttention(dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        _initialise(self.multihead_attn)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Update proxies (B, Q, C) from keys and values (B, L, C); ``bias`` (B * heads, Q, L) adds to the scores."""
        # The fused kernel loses the softmax of scores near -1e9 in its backward pass; asking for weights avoids it.
        read, _ = self.multihead_attn(query, key, value, attn_mask=bias, need_weights=bias is not None)
        return self.norm(query + read)


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
