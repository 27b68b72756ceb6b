"""What objects of RefShapes can look like, the words for it, and which combinations training never sees."""

from __future__ import annotations

Colour = tuple[int, int, int]

# name -> RGB. None of them is the darker or lighter version of another, so that light changes do not rename objects.
COLOURS: dict[str, Colour] = {
    "red": (214, 32, 40),
    "orange": (250, 134, 10),
    "yellow": (246, 226, 40),
    "green": (36, 160, 60),
    "turquoise": (50, 208, 206),
    "blue": (36, 72, 214),
    "purple": (128, 40, 170),
    "pink": (248, 132, 196),
    "white": (244, 244, 240),
    "black": (22, 22, 26),
}
# shape -> singular and plural words for it, the usual one first.
SHAPES: dict[str, tuple[tuple[str, str], ...]] = {
    "disc": (("disc", "discs"), ("circle", "circles")),
    "square": (("square", "squares"), ("box", "boxes")),
    "triangle": (("triangle", "triangles"),),
    "star": (("star", "stars"),),
    "hexagon": (("hexagon", "hexagons"),),
    "cross": (("cross", "crosses"), ("plus sign", "plus signs")),
    "ring": (("ring", "rings"),),
    "crescent": (("crescent", "crescents"), ("moon", "moons")),
    "heart": (("heart", "hearts"),),
    "bar": (("bar", "bars"), ("stick", "sticks")),
    "diamond": (("diamond", "diamonds"), ("rhombus", "rhombuses")),
}
GENERIC_NOUNS = (("object", "objects"), ("shape", "shapes"), ("thing", "things"))
# texture -> adjectives, and phrases that stand behind the noun.
TEXTURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "plain": (("plain",), ("without a pattern",)),
    "striped": (("striped",), ("with stripes",)),
    "dotted": (("dotted", "spotted"), ("with dots", "with spots")),
    "checked": (("checked", "chequered"), ("with checks",)),
}
# size -> adjectives; objects of medium size are called neither small nor large.
SIZES: dict[str, tuple[str, ...]] = {"small": ("small", "little"), "medium": (), "large": ("large", "big")}
# size -> smallest and largest radius in pixels of a frame of 320x240.
RADII: dict[str, tuple[float, float]] = {"small": (15, 19), "medium": (24, 30), "large": (38, 50)}
SOLID = ("disc", "square", "triangle", "hexagon", "heart", "diamond")  # a pattern is seen on small ones too
ROUND = ("disc", "ring")  # a rotation of these is not seen
COLOUR_WORDS: dict[str, tuple[str, ...]] = {name: (name,) for name in COLOURS} | {
    "purple": ("purple", "violet"),
    "turquoise": ("turquoise", "cyan"),
}

_COLOUR_STEP, _HELD_OUT_OF = 2, 5


def is_held_out(colour: str, shape: str) -> bool:
    """Whether training never shows this colour on this shape; true of every fifth pair, evenly over both."""
    place = _COLOUR_STEP * list(COLOURS).index(colour) + list(SHAPES).index(shape)
    return place % _HELD_OUT_OF == 0


def pairs(held_out: bool) -> list[tuple[str, str]]:
    """All pairs (colour, shape) that are held out, or all that are not."""
    return [(colour, shape) for colour in COLOURS for shape in SHAPES if is_held_out(colour, shape) == held_out]


def second_colour(colour: str) -> Colour:
    """The colour of stripes, dots and checks on `colour`: the same hue, clearly darker or (on dark ones) lighter."""
    rgb = COLOURS[colour]
    target, share = (255, 0.6) if colour in ("black", "blue", "purple", "red", "green") else (0, 0.5)
    red, green, blue = (round(value + (target - value) * share) for value in rgb)
    return red, green, blue
