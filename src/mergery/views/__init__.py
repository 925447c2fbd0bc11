"""A model as another model: a view made of a view, without reading a weight.

`respelling` gives it the names of another; `convert`, `widths` and `growth` another shape; `vocabulary` rows in the order of
another vocabulary.
"""
