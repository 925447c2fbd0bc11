"""Soft maps between models that were trained by themselves: optimal transport (OTFusion) and ZipIt!.

* `pairing`: two models that may be of other widths; `features`: what their units say, and how they are wired;
* `plans`: costs to plans; `fusing`: OTFusion, space after space; `zipping`: units of both merged, within one model too;
* `finding`: the transforms of a recipe.
"""
