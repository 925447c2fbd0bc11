"""Transport and Merge (arXiv 2602.05495): what a source has learnt, moved into a target of another
width, depth and vocabulary.
"""
