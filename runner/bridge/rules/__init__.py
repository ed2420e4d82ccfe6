"""What pipelines do by path: partition rules, masks of weight decay and frozen leaves, and the paths that they see."""
