"""How a layer is constructed and called: arguments from a config, as the layer wants them."""
