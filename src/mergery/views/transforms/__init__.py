"""Changes of a model's coordinates: those that leave what it computes as it is, and soft maps, which do not; and the model as
a view.

* `operators`: what is done to one axis of a tensor; `transform`: a change of a whole model, as it is stored;
* `mixing`: soft maps, which a model sees;
* `legal`: what a model's family allows; `applying`: the changed model, made window by window.
"""

from mergery.views.transforms.applying import transformed
from mergery.views.transforms.legal import why_illegal
from mergery.views.transforms.mixing import SoftMap
from mergery.views.transforms.transform import Heads, MemoryTransform, Transform, Units, read_transform

__all__ = ["Heads", "MemoryTransform", "SoftMap", "Transform", "Units", "read_transform", "transformed", "why_illegal"]
