"""What the pipeline around a layer demands of its variables by path: rules, masks, and names of axes."""
