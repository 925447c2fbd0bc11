"""Let the machine find the merge: open values of a recipe, tried on tasks.

A candidate is an ordinary recipe. It is never written: the one model in memory follows from candidate to candidate, and only
tensors that a change touches are made again (`live`).
"""
