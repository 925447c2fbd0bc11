"""Mergery merges several trained models into one.

    import mergery
    mergery.merge("recipe.yaml", "out")
    mergery.plan("recipe.yaml")
    mergery.methods.ties([math, code], base=base, density=0.2)

Names are loaded on first use: `import mergery` loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mergery.version import __version__ as __version__

if TYPE_CHECKING:
    from mergery import evaluation as evaluation
    from mergery import methods as methods
    from mergery.alignment.fusion.options import FuseOptions as FuseOptions
    from mergery.alignment.rebasing.options import RebaseOptions as RebaseOptions
    from mergery.alignment.transport.adapting import AdaptOptions as AdaptOptions
    from mergery.alignment.transport.options import TransportOptions as TransportOptions
    from mergery.api import align as align
    from mergery.api import auto as auto
    from mergery.api import calibrate as calibrate
    from mergery.api import compare as compare
    from mergery.api import diagnose as diagnose
    from mergery.api import evaluate as evaluate
    from mergery.api import explain as explain
    from mergery.api import export_gguf as export_gguf
    from mergery.api import export_imatrix as export_imatrix
    from mergery.api import export_quantised as export_quantised
    from mergery.api import find_anchors as find_anchors
    from mergery.api import flow as flow
    from mergery.api import foretell_fusion as foretell_fusion
    from mergery.api import fuse as fuse
    from mergery.api import inspect as inspect
    from mergery.api import inspect_anchors as inspect_anchors
    from mergery.api import learn as learn
    from mergery.api import merge as merge
    from mergery.api import pack as pack
    from mergery.api import plan as plan
    from mergery.api import prove as prove
    from mergery.api import push as push
    from mergery.api import rebase as rebase
    from mergery.api import recommend as recommend
    from mergery.api import refine as refine
    from mergery.api import search as search
    from mergery.api import soup as soup
    from mergery.api import transport as transport
    from mergery.api import verify as verify
    from mergery.calibration.anchors.refining import RefineOptions as RefineOptions
    from mergery.calibration.anchors.search import AnchorOptions as AnchorOptions
    from mergery.calibration.learning.options import LearnOptions as LearnOptions
    from mergery.calibration.options import CalibrationOptions as CalibrationOptions
    from mergery.checkpoints import open_checkpoint as open  # noqa: F401
    from mergery.engine.in_memory import merge_tensors as merge_tensors
    from mergery.errors import MergeryError as MergeryError
    from mergery.exploration.options import SearchOptions as SearchOptions
    from mergery.exploration.soups.options import SoupOptions as SoupOptions
    from mergery.recipe import Recipe as Recipe
    from mergery.recipe.reading import load_recipe as load_recipe
    from mergery.run.workers import Options as Options

_HOMES = {  # of public names: the module, and the name there where it is another
    **dict.fromkeys(
        ("plan", "merge", "explain", "pack", "export_gguf", "export_imatrix", "export_quantised", "push"), "api"
    ),
    **dict.fromkeys(("inspect", "verify", "prove", "calibrate", "evaluate", "compare", "learn"), "api"),
    **dict.fromkeys(("search", "soup", "auto", "recommend", "flow"), "api"),
    **dict.fromkeys(("diagnose", "align", "transport", "rebase", "fuse", "foretell_fusion"), "api"),
    **dict.fromkeys(("find_anchors", "inspect_anchors", "refine"), "api"),
    **dict.fromkeys(("evaluation", "methods"), ""),
    "AdaptOptions": "alignment.transport.adapting",
    "AnchorOptions": "calibration.anchors.search",
    "AutoOptions": "exploration.automatic.options",
    "CalibrationOptions": "calibration.options",
    "FlowOptions": "exploration.flow.options",
    "FuseOptions": "alignment.fusion.options",
    "LearnOptions": "calibration.learning.options",
    "MergeryError": "errors",
    "Options": "run.workers",
    "RebaseOptions": "alignment.rebasing.options",
    "Recipe": "recipe",
    "RefineOptions": "calibration.anchors.refining",
    "SearchOptions": "exploration.options",
    "SoupOptions": "exploration.soups.options",
    "TransportOptions": "alignment.transport.options",
    "load_recipe": "recipe.reading",
    "merge_tensors": "engine.in_memory",
    "open": "checkpoints:open_checkpoint",
}
__all__ = [*_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mergery' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    if not module:
        return importlib.import_module(f"mergery.{name}")
    value = getattr(importlib.import_module(f"mergery.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
