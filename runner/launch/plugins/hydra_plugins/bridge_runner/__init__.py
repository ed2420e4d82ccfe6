"""bridge-runner's sweeper and launcher, where Hydra looks for plugins."""
