"""Models that do not match: neurons in another order, other widths, other bases, other vocabularies.

What is found out here is kept as a checkpoint (a transform, a plan of transport); it is applied by a view.
"""
