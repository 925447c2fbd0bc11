"""The demo: train a tiny base and its experts, merge them with Mergery, score and draw the merges."""
