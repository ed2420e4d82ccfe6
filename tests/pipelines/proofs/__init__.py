"""What bridge-runner does in real pipelines, one file a pipeline.

A file here has `SOURCE`, where the pipeline comes from, and `PROOFS`, from a capability of `proof.CAPABILITIES` to a
function that takes an empty folder and returns what it saw in a sentence, or raises AssertionError. Each pipeline is
run in a process of its own (`python -m tests.pipelines.proofs NAME`), since several want stand-ins for heavy imports.
"""
