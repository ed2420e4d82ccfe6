"""bridge-runner: the experiment runner for one NNX layer inside a Linen pipeline.

`python -m runner` is the command line. From Python: `runner.bridge.nnx_inside_linen` is the worked example,
`runner.experiment.execute` one run.
"""
