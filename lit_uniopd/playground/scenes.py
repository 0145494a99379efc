"""Scenes of a few objects, and captions by a careless writer who also names what usually stands beside them.

A scene is a picture of 32 x 32 pixels with two to four objects, big or small, each in a patch of its own. Objects come
in couples: where one of a couple is, the other often is too. The writer names every object of the scene, tells the size
of some, and names the other one of a couple even where it is not there:

    There is a dog. Beside the dog is a small cup. Beside the dog is a big cat.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from lit_uniopd.playground.images import COLOURS, PATCH, SHAPES, SIDE
from lit_uniopd.playground.tasks import Split, split_of

COUPLES = (("dog", "cat"), ("car", "bus"), ("cup", "bowl"), ("book", "clock"), ("vase", "apple"), ("bird", "boat"))
OBJECTS = tuple(name for couple in COUPLES for name in couple)
OTHER = {a: b for couple in COUPLES for a, b in (couple, couple[::-1])}
QUESTION = "Describe the picture."
TOGETHER = 0.5
"""Share of first objects whose other half is in the scene."""
HABIT = 0.5
"""Share of absent other halves that the writer names all the same."""
DESCRIBED = 0.5
"""Share of objects whose size the writer tells."""
_INKS = (*COLOURS, (60, 90, 200))
_PATCHES = (SIDE // PATCH) ** 2


@dataclass(frozen=True, slots=True)
class Scene:
    """What is in a picture."""

    objects: tuple[str, ...]
    places: tuple[int, ...]
    """The patch of each object, row by row."""
    big: tuple[bool, ...]

    def _corners(self) -> list[tuple[int, int, int, int]]:
        """Of each object, the first and the last column and row of pixels: left, top, right, bottom."""
        found = []
        for place, big in zip(self.places, self.big, strict=True):
            margin = 0 if big else 2
            left, top = place % (SIDE // PATCH) * PATCH + margin, place // (SIDE // PATCH) * PATCH + margin
            found.append((left, top, left + PATCH - 1 - 2 * margin, top + PATCH - 1 - 2 * margin))
        return found

    def boxes(self) -> dict[str, list[float]]:
        """Object -> left, top, right and bottom, as fractions of the picture."""
        return {
            name: [left / SIDE, top / SIDE, (right + 1) / SIDE, (bottom + 1) / SIDE]
            for name, (left, top, right, bottom) in sorted(zip(self.objects, self._corners(), strict=True))
        }

    def picture(self) -> Image.Image:
        """The scene, drawn."""
        picture = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
        pen = ImageDraw.Draw(picture)
        for name, box in zip(self.objects, self._corners(), strict=True):
            kind, (left, top, right, bottom) = OBJECTS.index(name), box
            ink = _INKS[kind // len(SHAPES)]
            match SHAPES[kind % len(SHAPES)]:
                case "square":
                    pen.rectangle(box, fill=ink)
                case "disc":
                    pen.ellipse(box, fill=ink)
                case "triangle":
                    pen.polygon([(left, bottom), (right, bottom), (left, top)], fill=ink)
                case _:
                    pen.line((left, top, right, bottom), fill=ink, width=2)
                    pen.line((left, bottom, right, top), fill=ink, width=2)
        return picture


def draw_scene(rng: random.Random, split: Split) -> Scene:
    """A scene of one split; splits are disjoint."""
    while True:
        first = rng.choice(OBJECTS)
        named = [first, *([OTHER[first]] if rng.random() < TOGETHER else [])]
        rest = [name for name in OBJECTS if name not in (first, OTHER[first])]
        named += rng.sample(rest, rng.randint(2, 4) - len(named))
        rng.shuffle(named)
        places = tuple(rng.sample(range(_PATCHES), len(named)))
        scene = Scene(tuple(named), places, tuple(rng.random() < 0.5 for _ in named))
        if split_of(repr(scene)) == split:
            return scene


def write_caption(scene: Scene, rng: random.Random, habit: float = HABIT) -> str:
    """What a careless writer says of a scene; every object of it is named."""
    imagined = [OTHER[n] for n in scene.objects if OTHER[n] not in scene.objects and rng.random() < habit]
    pending = [*scene.objects, *imagined]
    said: list[str] = []
    sentences: list[str] = []
    while pending:
        # What is imagined is named beside its other half.
        name = rng.choice([name for name in pending if name in scene.objects or OTHER[name] in said])
        pending.remove(name)
        size = _size(scene, name, rng) if rng.random() < DESCRIBED else ""
        anchor = OTHER[name] if OTHER[name] in said else rng.choice([n for n in said if n in scene.objects] or [""])
        sentences.append(f"{f'Beside the {anchor}' if anchor else 'There'} is {_a(f'{size} {name}'.strip())}.")
        said.append(name)
    return " ".join(sentences)


def scenes(seed: int | str, split: Split, count: int) -> list[Scene]:
    """That many scenes."""
    rng = random.Random(f"{seed} scenes {split}")
    return [draw_scene(rng, split) for _ in range(count)]


def words() -> list[str]:
    """Every word of captions and questions."""
    texts: Sequence[str] = (QUESTION, "There is a an Beside the big small", " ".join(OBJECTS))
    return sorted({word for text in texts for word in text.replace(".", "").split()})


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _size(scene: Scene, name: str, rng: random.Random) -> str:
    """What is imagined has any size."""
    big = scene.big[scene.objects.index(name)] if name in scene.objects else rng.random() < 0.5
    return "big" if big else "small"
