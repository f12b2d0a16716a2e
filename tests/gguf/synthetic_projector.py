"""A vision projector of zeros that a real llama-server loads with a model."""

from __future__ import annotations

from tests.gguf.synthetic import F32, WIDTH, Synthetic, zeros


def projector(kind: str = "gemma3", *, image: int = 896, width: int = WIDTH) -> Synthetic:
    """Return a projector for models of this ``width``.

    ``gemma3`` takes images of one size, ``qwen2vl_merger`` of any size.
    """
    layers, inner, feed_forward, patch = 4, 256, 1024, 14
    tensors = [
        zeros("v.patch_embd.weight", patch, patch, 3, inner),
        zeros("v.post_ln.weight", inner),
        zeros("v.post_ln.bias", inner),
    ]
    if kind == "gemma3":
        tensors += [
            zeros("v.patch_embd.bias", inner),
            zeros("v.position_embd.weight", inner, (image // patch) ** 2, kind=F32),
            zeros("mm.input_projection.weight", width, inner),
            zeros("mm.soft_emb_norm.weight", inner),
        ]
    else:
        tensors += [
            zeros("v.patch_embd.weight.1", patch, patch, 3, inner),
            zeros("mm.0.weight", 4 * inner, 4 * inner),
            zeros("mm.0.bias", 4 * inner),
            zeros("mm.2.weight", 4 * inner, width),
            zeros("mm.2.bias", width),
        ]
    for layer in range(layers):
        for name in ("q", "k", "v", "out"):
            tensors += [
                zeros(f"v.blk.{layer}.attn_{name}.weight", inner, inner),
                zeros(f"v.blk.{layer}.attn_{name}.bias", inner),
            ]
        tensors += [
            zeros(f"v.blk.{layer}.{name}", inner)
            for name in ("ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "ffn_down.bias")
        ]
        tensors += [
            zeros(f"v.blk.{layer}.ffn_up.weight", inner, feed_forward),
            zeros(f"v.blk.{layer}.ffn_up.bias", feed_forward),
            zeros(f"v.blk.{layer}.ffn_down.weight", feed_forward, inner),
        ]
    return Synthetic(
        {
            "general.architecture": "clip",
            "general.type": "mmproj",
            "general.file_type": 1,
            "clip.has_vision_encoder": True,
            "clip.projector_type": kind,
            "clip.use_gelu": True,
            "clip.vision.image_size": image,
            "clip.vision.image_mean": [0.5, 0.5, 0.5],
            "clip.vision.image_std": [0.5, 0.5, 0.5],
            "clip.vision.patch_size": patch,
            "clip.vision.embedding_length": inner,
            "clip.vision.feed_forward_length": feed_forward,
            "clip.vision.projection_dim": width,
            "clip.vision.block_count": layers,
            "clip.vision.attention.head_count": 4,
            "clip.vision.attention.layer_norm_epsilon": 1e-6,
        },
        tensors,
    )
