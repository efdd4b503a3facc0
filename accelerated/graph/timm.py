"""timm's models in the form that is quantised: transformers with our attention, joint norms split.

timm is used only if it is already imported.
"""

import copy
import sys

from torch import nn

from ..activation import Site
from ..checks import InputError, one_of
from .modules import Attention, FeatureBatchNorm, FeedForward, RelativeBias, WindowBlock, is_altered

STYLES = ("hn", "mst")
NORMS = ("layer", "batch")
LAST = ("norm", "fc_norm")  # the names of the norm before the head


def _timm():
    """Whether timm is imported; otherwise no model can be timm's."""
    return "timm" in sys.modules


def _attention(old, name, style, mask):
    """timm's Attention as an `Attention`, with its configuration."""
    for part, valid in (("gate", old.gate is None), ("norm", isinstance(old.norm, nn.Identity))):
        if not valid:
            raise InputError(f"{name} ({type(old).__name__}) has a {part}, which is not supported: build it without")
    q_norm, k_norm = (plain_norm(norm) for norm in (old.q_norm, old.k_norm))
    return Attention(old.qkv, old.proj, old.num_heads, style, mask, None, q_norm, k_norm)


def _window_block(old, style, mask):
    """timm's SwinTransformerBlock as a `WindowBlock`."""
    attention = old.attn
    bias = RelativeBias(attention.relative_position_bias_table, attention.relative_position_index, old.attn_mask)
    new = Attention(attention.qkv, attention.proj, attention.num_heads, style, mask, bias)
    size = tuple(old.input_resolution), tuple(old.window_size), tuple(old.shift_size)
    site = Site("layer") if style == "mst" else None
    return WindowBlock(old.norm1, new, old.drop_path1, old.norm2, old.mlp, old.drop_path2, *size, site)


def plain_norm(norm):
    """torch's LayerNorm in place of timm's, same weights; other modules, layer norms of other axes too, unchanged."""
    if not _timm():
        return norm
    from timm.layers import LayerNorm

    if type(norm) is not LayerNorm:
        return norm
    new = nn.LayerNorm(norm.normalized_shape, norm.eps, norm.weight is not None, norm.bias is not None)
    new.weight, new.bias = norm.weight, norm.bias
    return new


def is_drop_path(module):
    """Whether a module is stochastic depth, timm's or torchvision's: a factor in training, the identity afterwards."""
    if "torchvision" in sys.modules:
        from torchvision.ops import StochasticDepth

        if type(module) is StochasticDepth:
            return True
    if not _timm():
        return False
    from timm.layers import DropPath

    return type(module) is DropPath


def plain(model):
    """The model, in place, with torch's modules instead of timm's joint or derived ones; weights stay.

    BatchNormAct2d becomes a batch norm and its activation, LayerNorm torch's LayerNorm.
    """
    if not _timm():
        return model
    from timm.layers import BatchNormAct2d

    for name, module in list(model.named_modules()):
        if not name or is_altered(module):
            continue
        if type(module) is BatchNormAct2d:
            norm = nn.BatchNorm2d(module.num_features, module.eps, module.momentum).train(module.training)
            norm.weight, norm.bias = module.weight, module.bias
            norm.running_mean, norm.running_var = module.running_mean, module.running_var
            model.set_submodule(name, nn.Sequential(norm, module.drop, module.act))
        elif plain_norm(module) is not module:
            model.set_submodule(name, plain_norm(module))
    return model


def is_timm_transformer(model):
    """Whether the model contains an attention or block of timm that `with_sites` replaces."""
    return _timm() and any(isinstance(module, _replaced()) for module in model.modules())


def _replaced():
    from timm.layers import Attention as TimmAttention
    from timm.layers import Mlp
    from timm.models.swin_transformer import SwinTransformerBlock

    return TimmAttention, Mlp, SwinTransformerBlock


def with_sites(model, style="hn", norm="layer", mask=0.0):
    """A copy of a timm ViT or Swin whose attention and feed-forward layers are those of this file; weights stay.

    GELU becomes ReLU, and Q, K, V, heads and projections get one too: answers change, and more training is
    needed. norm="batch" and style="mst" give the Masked Spiking Transformer's shape (Wang et al. 2023, 2210.01208, for
    images of CIFAR's size): batch norm but for the last norm, QCFS on the scores, after a block's first norm and that
    of the patches, after the reduction of merged patches, and where a feed-forward layer begins (`WindowBlock`). A ViT,
    which MST is not, has QCFS after all norms but the last. `mask` is the random spike mask. InputError names the first
    attention that is not supported.
    """
    one_of(style, STYLES, "style")
    one_of(norm, NORMS, "norm")
    model, (attention, mlp, window_block) = copy.deepcopy(model), _replaced()
    makes = {
        window_block: lambda old, name: _window_block(old, style, mask),
        attention: lambda old, name: _attention(old, name, style, mask),
        mlp: lambda old, name: FeedForward(old.fc1, old.fc2, old.drop1.p, plain_norm(old.norm)),
    }
    for kind, make in makes.items():
        for name, module in list(model.named_modules()):
            if type(module) is kind:
                model.set_submodule(name, make(module, name))
    for name, module in list(model.named_modules()):
        if hasattr(module, "num_heads"):
            supported = "timm's Attention (ViT, DeiT) and Swin's window attention"
            raise InputError(f"{name} ({type(module).__name__}) is not supported: choose a model with {supported}")
    bare = _without_site(model) if style == "mst" else {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.LayerNorm):
            keeps = norm == "layer" or (style == "mst" and name in LAST)
            new = plain_norm(module) if keeps else FeatureBatchNorm(module.normalized_shape[-1])
            model.set_submodule(name, nn.Sequential(new, Site("layer")) if style == "mst" and name not in bare else new)
    return model


def _without_site(model):
    """The norms behind which the Masked Spiking Transformer quantises nothing; puts a site behind each reduction."""
    from timm.models.swin_transformer import PatchMerging

    names = {name: type(module) for name, module in model.named_modules()}
    merges = [name for name, kind in names.items() if kind is PatchMerging]
    for name in merges:
        model.set_submodule(f"{name}.reduction", nn.Sequential(model.get_submodule(f"{name}.reduction"), Site("layer")))
    blocks = [name for name, kind in names.items() if kind is WindowBlock]
    return {*LAST, *(f"{name}.norm" for name in merges), *(f"{name}.norm2" for name in blocks)}
