"""Data-flow space (arXiv 2403.13187): the order in which a hidden state passes the layers of several models."""
