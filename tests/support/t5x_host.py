"""T5X's scalable T5 with its MLP blocks from outside. T5X has to be on the path."""

from __future__ import annotations

from typing import Any
from unittest import mock

import flax.linen as nn
import jax
from t5x.examples.scalable_t5 import layers, network

WIDTH, HIDDEN, VOCABULARY = 16, 32, 64
SIZES = {
    "vocab_size": VOCABULARY,
    "emb_dim": WIDTH,
    "num_heads": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "head_dim": 8,
    "mlp_dim": HIDDEN,
    "mlp_activations": ("relu",),
}


class T5(nn.Module):
    """Tokens int32 [batch, length], for encoder and decoder, to logits [batch, length, 64].

    Attributes:
      layer: Creates the MLP of every block, which is called (x, deterministic=…); None leaves T5X's own.
      scan_layers: Whether the blocks are one `scan_with_axes`.
      remat_policy: T5X's: none, minimal or full.
    """

    layer: Any = None
    scan_layers: bool = True
    remat_policy: str = "none"

    @nn.compact
    def __call__(self, tokens: jax.Array, enable_dropout: bool | None = None) -> jax.Array:
        """`enable_dropout=False` is T5X's evaluation, and how it initialises; None is right for both init and training."""
        enable_dropout = not self.is_initializing() if enable_dropout is None else enable_dropout

        def block(*_: Any, name: str | None = None, **__: Any) -> nn.Module:
            return self.layer(name=name)

        config = network.T5Config(**SIZES, scan_layers=self.scan_layers, remat_policy=self.remat_policy)
        with mock.patch.object(layers, "MlpBlock", layers.MlpBlock if self.layer is None else block):
            transformer = network.Transformer(config, name="t5")
            return transformer(tokens, tokens, tokens, enable_dropout=enable_dropout)
