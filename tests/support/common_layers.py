"""Names of conf/layer that the tests of the checks go through; the matrix (`-m slow`) goes through all."""

COMMON = (
    "batch_norm",
    "conv",
    "dropout",
    "embed",
    "gru",
    "layer_norm",
    "linear",
    "lora",
    "lstm",
    "mlp",
    "multi_head_attention",
    "rms_norm",
    "rnn",
    "sequential",
    "transformer_block",
)

# Those that compile soon, one of each kind: for checks that compile a dozen functions a layer.
QUICK = ("batch_norm", "dropout", "embed", "linear", "lora", "multi_head_attention", "rnn", "sequential")
