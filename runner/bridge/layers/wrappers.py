"""Layers around a linear one: spectral and weight normalisation, LoRA."""

from __future__ import annotations

from typing import Any

from flax import nnx


def spectral_norm(in_features: int, out_features: int, *, rngs: nnx.Rngs, **norm_kwargs: Any) -> nnx.SpectralNorm:
    """An `nnx.SpectralNorm` around an `nnx.Linear`: [..., in_features] to [..., out_features].

    Args:
      in_features: Last axis of x.
      out_features: Last axis of the output.
      rngs: Stream `params`.
      **norm_kwargs: For `nnx.SpectralNorm`: n_steps, epsilon, update_stats, …
    """
    return nnx.SpectralNorm(nnx.Linear(in_features, out_features, rngs=rngs), rngs=rngs, **norm_kwargs)


def weight_norm(in_features: int, out_features: int, *, rngs: nnx.Rngs, **norm_kwargs: Any) -> nnx.WeightNorm:
    """An `nnx.WeightNorm` around an `nnx.Linear`: [..., in_features] to [..., out_features].

    Its scales are raw arrays, not Variables: they come in a collection that is called after their type.

    Args:
      in_features: Last axis of x.
      out_features: Last axis of the output.
      rngs: Stream `params`.
      **norm_kwargs: For `nnx.WeightNorm`: use_scale, feature_axes, scale_init, …
    """
    return nnx.WeightNorm(nnx.Linear(in_features, out_features, rngs=rngs), rngs=rngs, **norm_kwargs)


def lora_with_base(in_features: int, lora_rank: int, out_features: int, *, rngs: nnx.Rngs, **kwargs: Any) -> nnx.LoRA:
    """An `nnx.LoRA` around an `nnx.Linear`: [..., in_features] to [..., out_features].

    Args:
      in_features: Last axis of x.
      lora_rank: Width between the two adapter matrices.
      out_features: Last axis of the output.
      rngs: Stream `params`.
      **kwargs: For `nnx.LoRA`: dtype, param_dtype, a_initializer, b_initializer, …
    """
    base = nnx.Linear(in_features, out_features, rngs=rngs)
    return nnx.LoRA(in_features, lora_rank, out_features, base_module=base, rngs=rngs, **kwargs)
