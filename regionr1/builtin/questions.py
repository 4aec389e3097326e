"""What the built-in benchmark asks: by category, never by name.

The benchmark plays a museum: every entity has a hall, a catalogue number and a year of entry, all
invented, drawn from its name. So every question has an answer in the knowledge base.
"""

import hashlib

import numpy as np

from regionr1.builtin.museum import Entity

NOUNS = {
    "bird": ("bird",),
    "building": ("building",),
    "dish": ("dish", "food"),
    "fruit": ("fruit or vegetable", "produce"),
    "garment": ("garment", "piece of clothing"),
    "mammal": ("mammal", "furry animal"),
    "place": ("place", "landscape"),
    "plant": ("plant",),
    "vehicle": ("vehicle",),
}
HALLS = ("North Hall", "East Wing", "Garden Room", "Old Library", "Glass Court", "West Gallery")
TEMPLATES = (
    ("What is this {noun} called?", "title"),
    ("What is the title of this {noun}?", "title"),
    ("In which hall is this {noun} shown?", "hall"),
    ("In which hall can visitors find this {noun}?", "hall"),
    ("Where can visitors find this {noun}?", "hall"),
    ("What is the catalogue number of this {noun}?", "number"),
    ("In what year did this {noun} enter the collection?", "year"),
    ("When was this {noun} first shown?", "year"),
)


def facts(thing: Entity) -> dict[str, str]:
    """The invented facts of an entity, the same on every machine."""
    digest = hashlib.sha256(thing.name.encode()).digest()
    return {
        "title": thing.title,
        "hall": HALLS[digest[0] % len(HALLS)],
        "number": str(1000 + int.from_bytes(digest[1:3], "big") % 9000),
        "year": str(1851 + digest[3] % 150),
    }


def ask(rng: np.random.Generator, thing: Entity) -> tuple[str, str]:
    """A question about an entity that names only its category, and its answer."""
    nouns = NOUNS[thing.category]
    template, fact = TEMPLATES[rng.integers(len(TEMPLATES))]
    return template.format(noun=nouns[rng.integers(len(nouns))]), facts(thing)[fact]


def all_questions() -> list[str]:
    """Every question the benchmark can ask."""
    return [
        template.format(noun=noun)
        for template, _ in TEMPLATES
        for nouns in NOUNS.values()
        for noun in nouns
    ]
