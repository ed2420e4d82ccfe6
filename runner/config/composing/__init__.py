"""From overrides to the configs of a sweep."""
