"""Which functions of methods have a compiled twin."""

from __future__ import annotations

from mergery.kernels.compiled.piece import Twin
from mergery.methods.compiled import changes, divergence, masks, variance

TWINS: dict[str, Twin] = {
    "arcee_fusion.arcee_fusion": Twin(divergence.arcee_fusion),
    "arcee_fusion.importance": Twin(divergence.importance, each=False),
    "breadcrumbs.breadcrumbs": Twin(masks.breadcrumbs),
    "breadcrumbs.sizes": Twin(masks.crumbs_before),
    "breadcrumbs.kept_sizes": Twin(masks.crumbs_after),
    "breadcrumbs_ties.breadcrumbs_ties": Twin(masks.breadcrumbs_ties),
    "della.della": Twin(masks.della),
    "della_linear.della_linear": Twin(masks.della_linear),
    "della_linear.sizes": Twin(masks.della_before),
    "della_linear.kept_sizes": Twin(masks.della_after),
    "nearswap.nearswap": Twin(changes.nearswap),
    "ram.ram": Twin(changes.ram),
    "ramplus_tl.ramplus_tl": Twin(changes.ramplus_tl),
    "ramplus_tl.shared": Twin(changes.shared),
    "ramplus_tl.unique": Twin(changes.unique),
    "sce.sce": Twin(variance.sce),
    "sce.spread": Twin(variance.spread, each=False),
    "sce.energies": Twin(variance.energies),
}
"""By the function's module in `mergery.methods` and its name."""
