"""Checkpoints as pipelines write them, one file a format; `registry` tells the format from what is in the file."""
