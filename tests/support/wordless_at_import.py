"""A module whose import raises an error without a text."""

from exiting_layers import WordlessError

raise WordlessError
