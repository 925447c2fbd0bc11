"""What the comparison of methods foretells (docs/which-method.md): written by `make zoo`, do not edit."""

from __future__ import annotations

MEASURES = ("models", "cosine", "conflict", "inputs", "outputs", "heads", "tails", "rank", "dispersion", "size")
LOW = (2, -0.004313, 0.07612, 0.03615, 0.04288, -0.01709, -0.008639, 0.03182, 1.025, 0.03137)
HIGH = (8, 0.4619, 0.5024, 0.6558, 0.535, 0.3874, 0.3742, 0.1264, 4.755, 0.2413)
"""Of each measure, the least and the largest that was seen."""
CENTER = (3.444, 0.05917, 0.4298, 0.2147, 0.1549, 0.04079, 0.04346, 0.08819, 1.944, 0.09244)
SPREAD = (2.006, 0.08083, 0.08505, 0.1439, 0.101, 0.06243, 0.06477, 0.02916, 0.8992, 0.05194)
LINES = {
    "linear": (822, 175, 25, 487, 159, 171, 167, -224, 351, 221, 31),
    "cart": (551, -85, 75, 396, 148, 1, 40, -29, 236, 161, 138),
    "task_arithmetic": (594, 201, -39, 442, 158, 369, 125, -212, 203, 114, -55),
    "ties": (1453, 37, -101, 883, 524, 592, -95, -142, 383, 266, 263),
    "dare_linear": (1085, 71, -79, 675, 282, 319, 293, -284, 96, 89, 570),
    "breadcrumbs": (1328, -92, 34, 801, 692, 382, -12, -372, 330, 157, 34),
    "pcb": (1574, -298, 205, 1179, 663, 520, 91, -303, 320, 137, 236),
    "tsv_merge": (276, -31, -85, 354, -77, 451, 113, -65, -3, 22, 37),
    "iso_c": (698, -204, -51, 454, 125, 332, 45, -98, 163, 176, 128),
    "dc_merge": (388, -119, -41, 456, 149, 271, 173, -116, -157, -21, 314),
    "knots": (761, 144, -51, 576, 100, 469, 210, -202, -28, 35, 215),
    "svc": (574, 70, -256, 431, -31, 798, 91, -124, -6, 23, 214),
    "swudi_a": (345, 16, -146, 331, -420, 531, 105, 98, 10, -80, 206),
    "ace": (509, -1, -265, 449, -511, 778, 70, 130, 93, -61, 312),
}
"""Of each method, how far it is behind the best, in ten-thousandths: a number, and one for each measure minus its center
over its spread."""
ONE = "tsv_merge"
"""The one method that was least behind on average: what is taken where a measure lies beyond all that was seen."""
CASES, WORLDS = 54, ("sequences", "shared", "adapters", "digits")
BEHIND = (0.04521, 0.02936, 0.06397)
"""How far what was chosen so was behind the best in hindsight, in worlds not learnt from: mean and 95 % interval."""
WORST = 0.118
"""The same in the worst world."""
NEAR = 0.03
CLOSE = 36
"""Cases in which the choice was behind by no more than `NEAR`."""
FALLEN = 0
"""Cases in which the choice scored below the base."""
ALWAYS = (0.04403, 0.02878, 0.06187)
"""How far one method for all cases was behind."""
CHANCE = (0.07788, 0.0687, 0.08649)
"""How far a method at random was behind."""
REAL: tuple[int, float, float, float] | None = (4, 0.06495, 0.06495, 0.1037)
"""Groups of a real model's adapters, of which nothing was learnt: how many, and how far what was chosen so, one method for
all, and a method at random were behind there."""
