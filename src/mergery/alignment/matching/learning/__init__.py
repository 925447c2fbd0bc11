"""Transforms that are learnt: by the loss of the model in the middle between two, on texts.

* `blending`: that model's weights, made of both models and a transform, and what they say of it;
* `texts`: its loss on texts, by transformers; `latents`: what is moved, and the legal transform that is nearest to it;
* `descent`: step by step, with the best transform kept.
"""
