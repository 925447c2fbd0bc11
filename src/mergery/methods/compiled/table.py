"""Which functions of methods have a compiled twin."""

from __future__ import annotations

from mergery.kernels.compiled.piece import Compiled
from mergery.methods.compiled import changes, divergence, masks, variance

COMPILED: dict[str, Compiled] = {
    "arcee_fusion.arcee_fusion": Compiled(divergence.arcee_fusion),
    "arcee_fusion.importance": Compiled(divergence.importance, each=False),
    "breadcrumbs.breadcrumbs": Compiled(masks.breadcrumbs),
    "breadcrumbs.sizes": Compiled(masks.crumbs_before),
    "breadcrumbs.kept_sizes": Compiled(masks.crumbs_after),
    "breadcrumbs_ties.breadcrumbs_ties": Compiled(masks.breadcrumbs_ties),
    "della.della": Compiled(masks.della),
    "della_linear.della_linear": Compiled(masks.della_linear),
    "della_linear.sizes": Compiled(masks.della_before),
    "della_linear.kept_sizes": Compiled(masks.della_after),
    "nearswap.nearswap": Compiled(changes.nearswap),
    "ram.ram": Compiled(changes.ram),
    "ramplus_tl.ramplus_tl": Compiled(changes.ramplus_tl),
    "ramplus_tl.shared": Compiled(changes.shared),
    "ramplus_tl.unique": Compiled(changes.unique),
    "sce.sce": Compiled(variance.sce),
    "sce.spread": Compiled(variance.spread, each=False),
    "sce.energies": Compiled(variance.energies),
}
"""By the function's module in `mergery.methods` and its name."""
