"""torch's attention functions in terms of linear layers, products and softmax, so that a graph shows what they do."""

import math

import torch
import torch.nn.functional as F

from ..checks import InputError


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """softmax(Q K^T scale + mask) V, as `F.scaled_dot_product_attention` documents it."""
    if dropout_p:
        raise InputError("scaled_dot_product_attention with dropout_p > 0 in evaluation is random: give it 0 there")
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if attn_mask is None:
        return scores.softmax(-1) @ value
    shares = (scores + _added(attn_mask, scores)).softmax(-1)
    if attn_mask.dtype == torch.bool and not attn_mask.any(-1).all():
        shares = shares.masked_fill(~attn_mask.any(-1, keepdim=True), 0.0)  # a token that sees none gets 0
    return shares @ value


def _added(mask, scores):
    """A mask as numbers to add: False becomes -infinity."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill(~mask, -math.inf)


def multi_head_attention_forward(
    query, key, value, embed_dim_to_check, num_heads, in_proj_weight, in_proj_bias, bias_k, bias_v, add_zero_attn,
    dropout_p, out_proj_weight, out_proj_bias, training=True, key_padding_mask=None, need_weights=True, attn_mask=None,
    use_separate_proj_weight=False, q_proj_weight=None, k_proj_weight=None, v_proj_weight=None, static_k=None,
    static_v=None, average_attn_weights=True, is_causal=False,
):  # fmt: skip
    """Multi-head attention on [tokens, batch, F], as `F.multi_head_attention_forward` computes it in evaluation."""
    unusual = {"bias_k": bias_k, "add_zero_attn": add_zero_attn or None, "static_k": static_k, "static_v": static_v,
               "key_padding_mask": key_padding_mask}  # fmt: skip
    for name, value_ in unusual.items():
        if value_ is not None:
            raise InputError(f"multi-head attention with {name} cannot be converted: build it without")
    if query.ndim != 3:
        raise InputError(f"multi-head attention takes [tokens, batch, F] or a batch first, got {tuple(query.shape)}")
    separate = q_proj_weight, k_proj_weight, v_proj_weight
    weights = separate if use_separate_proj_weight else in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, w, b).transpose(0, 1).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )  # [batch, heads, tokens, d]
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]))
    if attn_mask is not None:
        mask = _added(attn_mask if attn_mask.dtype != torch.bool else ~attn_mask, scores)
        scores = scores + (mask.unflatten(0, (-1, num_heads)) if mask.ndim == 3 else mask)
    shares = scores.softmax(-1)
    heads = (shares @ v).transpose(1, 2).flatten(2).transpose(0, 1)
    out = F.linear(heads, out_proj_weight, out_proj_bias)
    if not need_weights:
        return out, None
    return out, shares.mean(1) if average_attn_weights else shares


TAKEN_APART = {
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    F.multi_head_attention_forward: multi_head_attention_forward,
}
