"""A Flaxformer T5 whose MLPs come from outside. Flaxformer has to be on the path."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flaxformer.architectures.t5 import t5_architecture, t5_common_layers
from flaxformer.components import layer_norm

WIDTH, HIDDEN, VOCABULARY, RATE = 16, 32, 64, 0.1
HEADS = {"num_heads": 2, "head_dim": 8}

dropout = functools.partial(t5_common_layers.dropout, rate=RATE)
norm = functools.partial(layer_norm.T5LayerNorm, dtype=jnp.float32)
bias = functools.partial(t5_common_layers.relative_position_bias, num_heads=2, dtype=jnp.float32)
attention = functools.partial(t5_common_layers.attention_layer, **HEADS, dropout_rate=RATE, dtype=jnp.float32)
embedding = functools.partial(t5_common_layers.embedding, VOCABULARY, WIDTH, dtype=jnp.float32)


class Flaxformer(nn.Module):
    """Tokens int32 [batch, length], for encoder and decoder, to logits [batch, length, 64].

    Attributes:
      layer: Creates the MLP of every block, which is called (x, enable_dropout=…), in decoders with `decode`,
        `prefill` and `prefill_lengths` too; None leaves Flaxformer's own.
      scan_layers: Whether the blocks are one scan of Flaxformer's.
    """

    layer: Any = None
    scan_layers: bool = True

    @nn.compact
    def __call__(self, tokens: jax.Array, enable_dropout: bool | None = None) -> jax.Array:
        """`enable_dropout=False` is its evaluation, and how T5X initialises; None is right for both init and training."""
        enable_dropout = not self.is_initializing() if enable_dropout is None else enable_dropout
        architecture = t5_architecture.EncoderDecoder(
            shared_token_embedder_factory=embedding,
            encoder_factory=self.encoder,
            decoder_factory=self.decoder,
            scan_layers=self.scan_layers,
            name="t5",
        )
        return architecture(tokens, tokens, tokens, enable_dropout=enable_dropout)

    @nn.nowrap
    def mlp(self) -> nn.Module:
        """The layer from outside, or the one that Flaxformer has there."""
        if self.layer is not None:
            return self.layer()
        return t5_common_layers.mlp_block(HIDDEN, RATE, ("relu",), dtype=jnp.float32)

    @nn.nowrap
    def encoder(self, shared_token_embedder: nn.Module) -> nn.Module:
        """Two blocks, each with the MLP."""

        def block(shared_relative_position_bias: nn.Module | None) -> nn.Module:
            return t5_architecture.EncoderLayer(
                attention=attention(),
                mlp=self.mlp(),
                dropout_factory=dropout,
                layer_norm_factory=norm,
                relative_position_bias_factory=bias,
                scanned=self.scan_layers,
            )

        return t5_architecture.Encoder(
            layer_factory=block,
            input_dropout_factory=dropout,
            output_dropout_factory=dropout,
            layer_norm_factory=norm,
            num_layers=2,
            shared_token_embedder=shared_token_embedder,
            scan_layers=self.scan_layers,
            dtype=jnp.float32,
        )

    @nn.nowrap
    def decoder(self, shared_token_embedder: nn.Module) -> nn.Module:
        """Two blocks, each with the MLP."""

        def block(shared_relative_position_bias: nn.Module | None) -> nn.Module:
            return t5_architecture.DecoderLayer(
                self_attention=attention(),
                encoder_decoder_attention=attention(),
                mlp=self.mlp(),
                dropout_factory=dropout,
                layer_norm_factory=norm,
                relative_position_bias_factory=bias,
                scanned=self.scan_layers,
            )

        return t5_architecture.Decoder(
            layer_factory=block,
            dropout_factory=dropout,
            layer_norm_factory=norm,
            num_layers=2,
            shared_token_embedder=shared_token_embedder,
            scan_layers=self.scan_layers,
            dtype=jnp.float32,
        )
