"""A module whose import raises what is no Exception."""

from exiting_layers import Stop

raise Stop
