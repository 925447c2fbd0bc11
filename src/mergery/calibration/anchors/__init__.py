"""Functional dual anchors: made-up inputs of blocks that stand for what models have learnt, and merges refined on them.

search    the anchors of one block for one model     refining   one block, moved towards what models make of anchors
running   all blocks of a recipe                     folder     anchors as a checkpoint
looking   what anchors are like: spectra, and what they share with task vectors and with data
"""
