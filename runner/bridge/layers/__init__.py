"""The layers that conf/layer names and flax does not have ready-made."""
