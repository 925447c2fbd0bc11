"""What data tells of a model: statistics of the inputs and gradients of its weights, as checkpoints that methods read.

    mergery.calibrate("./math", "math.jsonl", "./math-stats", options=CalibrationOptions(("gram",)))

A model runs block by block, in transformers' own code, with no more of its weights in memory than one block's.
"""
