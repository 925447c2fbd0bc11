"""What names, shapes and configs tell of a model; there is no file for each architecture.

* `names`: roles and layers (`roles` has the table of words);
* `sections`: the part of a multimodal model that a name belongs to;
* `fused`: tensors that hold several matrices, and where each lies; `spelling`: one name for two spellings of a tensor;
* `facts`: what configs say of how weights are used; `depth`: configs of other stacks of layers; `anatomy`: what each axis of a
  family's tensors stands for.

Knowledge refines a merge (gradients, filters, stacks); its absence never loses a weight: a name that nothing here
understands has the role `other` and no layer.
"""

from mergery.architecture.names import Architecture, ParsedName, read_architecture
from mergery.architecture.roles import ROLES
from mergery.architecture.sections import PARTS, part_of

__all__ = ["PARTS", "ROLES", "Architecture", "ParsedName", "part_of", "read_architecture"]
