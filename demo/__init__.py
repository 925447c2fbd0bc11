"""The demo: train a tiny base and its experts, merge them with Weft, score and draw the merges."""
