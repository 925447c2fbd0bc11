"""What a merging method is: a plain function whose signature says what it needs.

A parameter of the function is one of three things, told by its annotation:

* **what is merged** (the first parameter): `Count`, `Gram`, `Models` or `Deltas`;
* **what it asks the engine for**: `Annotated[..., ask]` with an `Ask` such as `Base()`, `Random()`, `Noise()`,
  `Largest("density")` or `Sum(of)`;
* **a setting** (keyword-only): `bool`, `int`, `float`, `Fraction`, `Way`, `Task`, `Auto`, a `Literal`, or `PerModel[...]` of
  those.

Asks are answered in the order of the signature, and later ones may use what earlier ones gave. A statistic is of the tensor
or of the whole model: as the ask says, else as the method's setting `scope` says.

The module imports neither torch nor numpy: a method's settings are known to the planner, the command line and the
docs without loading either.
"""

from mergery.method.asks import (
    Ask,
    Base,
    Coefficients,
    Count,
    Deltas,
    Fisher,
    FisherOfBase,
    Gram,
    Inputs,
    Largest,
    MergedDelta,
    Models,
    Noise,
    Random,
    Shape,
    Sum,
    Tensor,
)
from mergery.method.consensus import Consensus
from mergery.method.declaring import Method, method
from mergery.method.packing import PackedPart, Packing, serve
from mergery.method.registry import find, methods, register
from mergery.method.roles import Preset
from mergery.method.setting import Auto, Fraction, PerModel, Setting, Task, Way, each

__all__ = [
    "Ask", "Auto", "Base", "Coefficients", "Consensus", "Count", "Deltas", "Fisher", "FisherOfBase", "Fraction", "Gram",
    "Inputs", "Largest", "MergedDelta", "Method", "Models", "Noise", "PackedPart", "Packing", "PerModel", "Preset", "Random",
    "Setting", "Shape", "Sum", "Task", "Tensor", "Way", "each", "find", "method", "methods", "register", "serve",
]  # fmt: skip
