"""Quantised weights: told by the names and dtypes of tensors, and decoded as they are read.

* `codes`: what says that weights are codes, whatever a config claims;
* `numbers`: eight-bit floats, and integers packed in words; `decoders`, `turned`: each layout as a tensor of float32;
* `schemes`: which decoder a model's tensors want; `checkpoint`: a checkpoint over a checkpoint, whose tensors are decoded;
* `writing`: the schemes in which a model can be written, and their layout.
"""
