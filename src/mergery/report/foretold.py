"""What the comparison of methods foretells (docs/which-method.md): written by `make zoo`, do not edit."""

from __future__ import annotations

MEASURES = ("models", "cosine", "conflict", "inputs", "outputs", "heads", "tails", "rank", "dispersion", "size")
LOW = (2, -0.004313, 0.07612, 0.03615, 0.04288, -0.01709, -0.008639, 0.03182, 1.025, 0.03137)
HIGH = (8, 0.4619, 0.5024, 0.6558, 0.535, 0.3874, 0.3742, 0.1264, 4.755, 0.2006)
"""Of each measure, the least and the largest that was seen."""
CENTER = (3.447, 0.06501, 0.4234, 0.2398, 0.1593, 0.04437, 0.04792, 0.09503, 1.954, 0.08232)
SPREAD = (1.998, 0.08473, 0.08882, 0.1375, 0.1058, 0.06588, 0.06804, 0.02467, 0.9316, 0.04557)
LINES = {
    "linear": (868, 143, -32, 484, 192, 197, 150, -209, 333, 239, -11),
    "cart": (563, -107, 46, 428, 155, 39, 26, -8, 262, 193, 115),
    "task_arithmetic": (972, 570, -483, 816, 818, 1209, 165, -385, -33, -108, 288),
    "ties": (1471, 7, -85, 913, 541, 526, -143, -118, 506, 310, 299),
    "dare_linear": (1858, 459, -326, 654, 1031, 975, 494, -982, -384, 87, 1196),
    "breadcrumbs": (1469, 292, -17, 650, 724, 523, -137, -385, 243, 13, 57),
    "pcb": (1590, -377, 210, 1140, 723, 269, 29, -229, 559, 251, 385),
    "tsv_merge": (415, 75, 199, 488, 73, -184, 96, 74, 51, -14, 608),
    "iso_c": (978, -235, 170, 489, 508, -237, -29, -146, 263, 171, 286),
    "dc_merge": (451, 23, 209, 622, 91, -192, 133, 76, 44, -53, 761),
    "knots": (663, 132, -12, 659, 193, 340, 172, -151, 154, 76, 283),
    "svc": (915, 409, -62, 602, 554, 189, -45, 73, -117, 87, 1017),
    "swudi_a": (422, 243, 259, 395, -72, -452, 46, 307, 14, 24, 913),
    "ace": (752, 164, 79, 211, -126, -468, 120, 269, -220, 140, 1274),
}
"""Of each method, how far it is behind the best, in ten-thousandths: a number, and one for each measure minus its center
over its spread."""
CASES, WORLDS = 47, ("sequences", "shared", "adapters", "digits")
BEHIND = (0.03209, 0.02128, 0.04445)
"""How far what the lines chose was behind the best in hindsight, in worlds they had not seen: mean and 95 % interval."""
WORST = 0.056
"""The same in the worst world."""
NEAR = 0.03
CLOSE = 30
"""Cases in which the choice was behind by no more than `NEAR`."""
FALLEN = 0
"""Cases in which the choice scored below the base."""
ALWAYS = (0.1069, 0.0796, 0.1321)
"""How far one method for all cases was behind."""
CHANCE = (0.1033, 0.08949, 0.1172)
"""How far a method at random was behind."""
