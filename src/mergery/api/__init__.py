"""The verbs. The command line and a notebook are thin shells over these."""

from mergery.api.aligning import align, transport
from mergery.api.anchoring import find_anchors, inspect_anchors, refine
from mergery.api.finding import auto, flow, recommend, search, soup
from mergery.api.fusing import foretell_fusion, fuse
from mergery.api.handing_on import export_gguf, export_imatrix, export_quantised, push
from mergery.api.looking import diagnose, inspect, prove, verify
from mergery.api.measuring import calibrate, compare, evaluate, learn
from mergery.api.merging import explain, merge, pack, plan
from mergery.api.rebasing import rebase

__all__ = [
    "align",
    "auto",
    "calibrate",
    "compare",
    "diagnose",
    "evaluate",
    "explain",
    "export_gguf",
    "export_imatrix",
    "export_quantised",
    "find_anchors",
    "flow",
    "foretell_fusion",
    "fuse",
    "inspect",
    "inspect_anchors",
    "learn",
    "merge",
    "pack",
    "plan",
    "prove",
    "push",
    "rebase",
    "recommend",
    "refine",
    "search",
    "soup",
    "transport",
    "verify",
]
