"""Two models on the same variables: which names Linen gave, and whether the outputs agree."""
