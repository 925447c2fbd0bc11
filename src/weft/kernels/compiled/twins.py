"""Which functions of methods have a compiled twin."""

from __future__ import annotations

from weft.kernels.compiled import changes, crumbs, variance
from weft.kernels.compiled.piece import Twin

_CRUMBS, _SCE, _RAM, _PLUS = (f"weft.methods.{name}." for name in ("breadcrumbs", "sce", "ram", "ramplus_tl"))

TWINS: dict[str, Twin] = {
    "weft.methods.nearswap.nearswap": Twin(changes.nearswap),
    _RAM + "ram": Twin(changes.ram),
    _PLUS + "ramplus_tl": Twin(changes.ramplus_tl),
    _PLUS + "shared": Twin(changes.shared),
    _PLUS + "unique": Twin(changes.unique),
    _CRUMBS + "sizes": Twin(crumbs.sizes),
    _CRUMBS + "kept_sizes": Twin(crumbs.kept_sizes, fits=crumbs.by_thresholds),
    _CRUMBS + "breadcrumbs": Twin(crumbs.breadcrumbs, fits=crumbs.by_thresholds),
    "weft.methods.breadcrumbs_ties.breadcrumbs_ties": Twin(crumbs.breadcrumbs_ties, fits=crumbs.by_thresholds),
    _SCE + "spread": Twin(variance.spread, each=False),
    _SCE + "varying": Twin(variance.varying, each=False),
    _SCE + "energies": Twin(variance.energies),
    _SCE + "sce": Twin(variance.sce),
}
"""By the function's module and name."""
