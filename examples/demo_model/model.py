"""The Qwen3.5 MoE architecture in plain PyTorch, written to train quickly on two CPU cores.

Experts run on their own tokens, sorted by expert; the delta rule runs in chunks, each a triangular solve.
Parameter names are the published ones, so that a state dict is a checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """The demo model's sizes; every width that a matrix reads is a multiple of 64."""

    vocab: int
    hidden: int = 192
    layers: int = 8
    full_interval: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 64
    rotary: int = 16
    theta: float = 10_000.0
    key_heads: int = 2
    value_heads: int = 4
    key_size: int = 64
    value_size: int = 64
    taps: int = 4
    experts: int = 16
    active: int = 4
    expert_width: int = 64
    shared_width: int = 64
    context: int = 2048


class RMSNorm(nn.Module):
    """(1 + weight) * x / rms(x)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], 1 + self.weight, 1e-6)


def linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=inputs**-0.5 * 0.7)
    return layer


class GatedAttention(nn.Module):
    """Grouped-query attention whose output each query head can gate."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.q_proj = linear(s.hidden, 2 * s.heads * s.head_size)
        self.k_proj = linear(s.hidden, s.kv_heads * s.head_size)
        self.v_proj = linear(s.hidden, s.kv_heads * s.head_size)
        self.o_proj = linear(s.heads * s.head_size, s.hidden)
        self.q_norm, self.k_norm = RMSNorm(s.head_size), RMSNorm(s.head_size)

    def _rotate(self, x: Tensor) -> Tensor:
        n = self.s.rotary
        frequency = self.s.theta ** (-torch.arange(0, n, 2) / n)
        angle = torch.arange(x.shape[1])[:, None, None] * frequency
        cos, sin = angle.cos(), angle.sin()
        a, b, rest = x[..., : n // 2], x[..., n // 2 : n], x[..., n:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), -1)

    def forward(self, x: Tensor) -> Tensor:
        s, (batch, tokens, _) = self.s, x.shape
        query, gate = self.q_proj(x).view(batch, tokens, s.heads, 2, s.head_size).unbind(3)
        key = self.k_proj(x).view(batch, tokens, s.kv_heads, s.head_size)
        value = self.v_proj(x).view(batch, tokens, s.kv_heads, s.head_size)
        query, key = self._rotate(self.q_norm(query)), self._rotate(self.k_norm(key))
        key, value = (y.repeat_interleave(s.heads // s.kv_heads, 2) for y in (key, value))
        mixed = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (query, key, value)), is_causal=True)
        return self.o_proj((mixed.transpose(1, 2) * gate.sigmoid()).flatten(2))


class GatedDelta(nn.Module):
    """Gated DeltaNet: S = exp(g) S + k d', d = beta (v - k' exp(g) S), o = q' S."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        keys, values = s.key_heads * s.key_size, s.value_heads * s.value_size
        channels = 2 * keys + values
        self.in_proj_qkv = linear(s.hidden, channels)
        self.in_proj_z = linear(s.hidden, values)
        self.in_proj_a = linear(s.hidden, s.value_heads)
        self.in_proj_b = linear(s.hidden, s.value_heads)
        self.out_proj = linear(values, s.hidden)
        self.conv1d = nn.Conv1d(channels, channels, s.taps, groups=channels, bias=False)
        self.A_log = nn.Parameter(torch.linspace(0.05, 4, s.value_heads).log())
        self.dt_bias = nn.Parameter(torch.full((s.value_heads,), -2.0))
        self.norm = nn.Module()
        self.norm.weight = nn.Parameter(torch.ones(s.value_size))

    def forward(self, x: Tensor) -> Tensor:
        s, (batch, tokens, _) = self.s, x.shape
        raw = F.pad(self.in_proj_qkv(x).transpose(1, 2), (s.taps - 1, 0))
        mixed = F.silu(sum(raw[..., j : j + tokens] * self.conv1d.weight[:, :, j] for j in range(s.taps)))
        keys = s.key_heads * s.key_size
        query, key, value = mixed.transpose(1, 2).split((keys, keys, s.value_heads * s.value_size), -1)
        repeat = s.value_heads // s.key_heads
        query, key = (
            (y := h.view(batch, tokens, s.key_heads, s.key_size))
            .mul(torch.rsqrt(y.pow(2).sum(-1, keepdim=True) + 1e-6))
            .repeat_interleave(repeat, 2)
            .transpose(1, 2)
            for h in (query, key)
        )
        value = value.view(batch, tokens, s.value_heads, s.value_size).transpose(1, 2)
        decay = -self.A_log.exp() * F.softplus(self.in_proj_a(x) + self.dt_bias)
        beta = self.in_proj_b(x).sigmoid()
        read = delta_rule(query * s.key_size**-0.5, key, value, decay.transpose(1, 2), beta.transpose(1, 2))
        read = F.rms_norm(read.transpose(1, 2), (s.value_size,), self.norm.weight, 1e-6)
        return self.out_proj((read * F.silu(self.in_proj_z(x)).view_as(read)).flatten(2))


def delta_rule(query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, chunk: int = 32) -> Tensor:
    """The gated delta rule over whole sequences, `chunk` tokens at a time.

    Shapes: query, key [B, H, T, dk] · value [B, H, T, dv] · decay (log), beta [B, H, T] -> [B, H, T, dv].
    Within a chunk the corrections d solve a unit lower triangular system: d_i depends on the d_j before it.
    """
    batch, heads, tokens, key_size = query.shape
    memory = query.new_zeros(batch, heads, key_size, value.shape[-1])
    out = []
    for at in range(0, tokens, chunk):
        q, k, v, g, b = (y[:, :, at : at + chunk] for y in (query, key, value, decay, beta))
        total = g.cumsum(-1)
        size = q.shape[2]
        causal = torch.ones(size, size, dtype=torch.bool).tril()
        fade = (total[..., :, None] - total[..., None, :]).masked_fill(~causal, -torch.inf).exp()
        system = (b[..., None] * (k @ k.mT) * fade).tril(-1) + torch.eye(size)
        right = b[..., None] * (v - total.exp()[..., None] * (k @ memory))
        d = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
        out.append(total.exp()[..., None] * (q @ memory) + ((q @ k.mT) * fade) @ d)
        last = total[..., -1:]
        memory = last.exp()[..., None] * memory + (k * (last - total).exp()[..., None]).mT @ d
    return torch.cat(out, 2)


class SharedExpert(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = linear(s.hidden, s.shared_width), linear(s.hidden, s.shared_width)
        self.down_proj = linear(s.shared_width, s.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MoE(nn.Module):
    """Softmax router, its top experts, and a gated shared expert; keeps the load-balancing loss of its last call."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.gate = linear(s.hidden, s.experts)
        self.experts = nn.Module()
        self.experts.gate_up_proj = nn.Parameter(torch.randn(s.experts, 2 * s.expert_width, s.hidden) * s.hidden**-0.5)
        self.experts.down_proj = nn.Parameter(torch.randn(s.experts, s.hidden, s.expert_width) * s.expert_width**-0.5)
        self.shared_expert = SharedExpert(s)
        self.shared_expert_gate = linear(s.hidden, 1)
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        s, shape = self.s, x.shape
        x = x.reshape(-1, s.hidden)
        probability = self.gate(x).softmax(-1)
        weight, expert = probability.topk(s.active, -1)
        weight = weight / weight.sum(-1, keepdim=True)
        order = expert.flatten().argsort(stable=True)
        counts = expert.flatten().bincount(minlength=s.experts)
        self.balance = s.experts * (counts / counts.sum() * probability.mean(0)).sum()
        token = order // s.active
        pieces = []
        for e, part in enumerate(x[token].split(counts.tolist())):
            gate, up = F.linear(part, self.experts.gate_up_proj[e]).chunk(2, -1)
            pieces.append(F.linear(F.silu(gate) * up, self.experts.down_proj[e]))
        routed = torch.cat(pieces) * weight.flatten()[order, None]
        out = torch.zeros_like(x).index_add(0, token, routed)
        return (out + self.shared_expert_gate(x).sigmoid() * self.shared_expert(x)).view(shape)


class Layer(nn.Module):
    def __init__(self, s: Shape, number: int) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(s.hidden), RMSNorm(s.hidden)
        if (number + 1) % s.full_interval == 0:
            self.self_attn = GatedAttention(s)
        else:
            self.linear_attn = GatedDelta(s)
        self.mlp = MoE(s)

    def forward(self, x: Tensor) -> Tensor:
        mixer = self.self_attn if hasattr(self, "self_attn") else self.linear_attn
        x = x + mixer(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class DemoModel(nn.Module):
    """Token ids [B, T] to logits [B, T, V]."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.shape = s
        self.embed_tokens = nn.Embedding(s.vocab, s.hidden)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        self.layers = nn.ModuleList(Layer(s, n) for n in range(s.layers))
        self.norm = RMSNorm(s.hidden)
        self.lm_head = linear(s.hidden, s.vocab)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(self.norm(x))

    @property
    def balance(self) -> Tensor:
        """Mean load-balancing loss of the layers, 1 where every expert is used alike (Switch Transformer, 2021)."""
        return torch.stack([layer.mlp.balance for layer in self.layers]).mean()
