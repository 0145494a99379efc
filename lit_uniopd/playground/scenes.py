"""Scenes of a few objects, and captions by a careless writer who also names what usually stands beside them.

A scene is a picture of 32 x 32 pixels with two to four objects, big or small, each in a patch of its own. Objects come
in couples: where one of a couple is, the other often is too. The writer names every object of the scene, states the
size of some, and often names the other one of a couple although it is absent:

    There is a dog. Beside the dog is a small cup. Beside the dog is a big cat.

Another writer strays, and names what stands in its mind behind the thing that it named last: seldom behind one that is
there, mostly behind one that it imagined, so that its errors breed errors:

    There is a dog. Beside the dog is a big cat. Beside the cat is a car.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from lit_uniopd.playground.images import BLUE, COLOURS, PATCH, SIDE, WHITE, draw_shape
from lit_uniopd.playground.tasks import Split, split_of

COUPLES = (("dog", "cat"), ("car", "bus"), ("cup", "bowl"), ("book", "clock"), ("vase", "apple"), ("bird", "boat"))
OBJECTS = tuple(name for couple in COUPLES for name in couple)
OTHER = {a: b for couple in COUPLES for a, b in (couple, couple[::-1])}
QUESTION = "Describe the picture."
TOGETHER = 0.5
"""Share of first objects whose other half is in the scene."""
HABIT = 0.5
"""Share of absent other halves that the writer names nevertheless."""
FOLLOWING = dict(zip(OBJECTS, (*OBJECTS[1:], OBJECTS[0]), strict=True))
"""What stands behind each object in the mind of the writer who strays, in a ring."""
STRAY, SPREAD = 0.25, 0.7
"""How often it strays after an object of the scene, and after one that it imagined."""
DESCRIBED = 0.5
"""Share of objects whose size the writer states."""
_INKS = (*COLOURS, BLUE)
_PATCHES = (SIDE // PATCH) ** 2


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of a picture."""

    objects: tuple[str, ...]
    places: tuple[int, ...]
    """The patch of each object, row by row."""
    big: tuple[bool, ...]

    def _corners(self) -> list[tuple[int, int, int, int]]:
        """Of each object, the first and the last column and row of pixels: left, top, right, bottom."""
        corners = []
        for place, big in zip(self.places, self.big, strict=True):
            margin = 0 if big else 2
            left, top = place % (SIDE // PATCH) * PATCH + margin, place // (SIDE // PATCH) * PATCH + margin
            corners.append((left, top, left + PATCH - 1 - 2 * margin, top + PATCH - 1 - 2 * margin))
        return corners

    def boxes(self) -> dict[str, list[float]]:
        """Object -> left, top, right and bottom, as fractions of the picture."""
        return {
            name: [left / SIDE, top / SIDE, (right + 1) / SIDE, (bottom + 1) / SIDE]
            for name, (left, top, right, bottom) in sorted(zip(self.objects, self._corners(), strict=True))
        }

    def picture(self) -> Image.Image:
        """The scene, drawn."""
        picture = Image.new("RGB", (SIDE, SIDE), WHITE)
        pen = ImageDraw.Draw(picture)
        for name, box in zip(self.objects, self._corners(), strict=True):
            draw_shape(pen, OBJECTS.index(name), box, _INKS)
        return picture


def draw_scene(rng: random.Random, split: Split) -> Scene:
    """A scene of one split; splits are disjoint."""
    while True:
        first = rng.choice(OBJECTS)
        objects = [first, *([OTHER[first]] if rng.random() < TOGETHER else [])]
        unrelated = [name for name in OBJECTS if name not in (first, OTHER[first])]
        objects += rng.sample(unrelated, rng.randint(2, 4) - len(objects))
        rng.shuffle(objects)
        places = tuple(rng.sample(range(_PATCHES), len(objects)))
        scene = Scene(tuple(objects), places, tuple(rng.random() < 0.5 for _ in objects))
        if split_of(repr(scene)) == split:
            return scene


def write_caption(scene: Scene, rng: random.Random, habit: float = HABIT) -> str:
    """A careless writer's caption of a scene; it names every object."""
    imagined = [OTHER[n] for n in scene.objects if OTHER[n] not in scene.objects and rng.random() < habit]
    pending = [*scene.objects, *imagined]
    mentioned: list[str] = []
    sentences: list[str] = []
    while pending:
        # An imagined object is named beside its other half.
        name = rng.choice([name for name in pending if name in scene.objects or OTHER[name] in mentioned])
        pending.remove(name)
        sentences.append(_sentence(scene, name, OTHER[name], mentioned, rng))
        mentioned.append(name)
    return " ".join(sentences)


def write_propagating_caption(scene: Scene, rng: random.Random, stray: float = STRAY, spread: float = SPREAD) -> str:
    """A caption by the writer who strays; it names every object."""
    pending = list(scene.objects)
    mentioned: list[str] = []
    sentences: list[str] = []
    while True:
        last = mentioned[-1] if mentioned else ""
        imagined = FOLLOWING.get(last)
        strays = rng.random() < (stray if last in scene.objects else spread)
        if strays and imagined and imagined not in (*scene.objects, *mentioned):
            name, anchor = imagined, last
        elif pending:
            name = pending.pop(rng.randrange(len(pending)))
            anchor = OTHER[name] if OTHER[name] in scene.objects else ""
        else:
            return " ".join(sentences)
        sentences.append(_sentence(scene, name, anchor, mentioned, rng))
        mentioned.append(name)


def draw_scenes(seed: int | str, split: Split, count: int) -> list[Scene]:
    """``count`` scenes of one split."""
    rng = random.Random(f"{seed} scenes {split}")
    return [draw_scene(rng, split) for _ in range(count)]


def words() -> list[str]:
    """Every word of captions and questions."""
    texts: Sequence[str] = (QUESTION, "There is a an Beside the big small", " ".join(OBJECTS))
    return sorted({word for text in texts for word in text.replace(".", "").split()})


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _sentence(scene: Scene, name: str, anchor: str, mentioned: Sequence[str], rng: random.Random) -> str:
    """It names a thing beside ``anchor``, or beside an object of the scene if that is not ``mentioned`` yet."""
    size = _size(scene, name, rng) if rng.random() < DESCRIBED else ""
    if anchor not in mentioned:
        anchor = rng.choice([n for n in mentioned if n in scene.objects] or [""])
    return f"{f'Beside the {anchor}' if anchor else 'There'} is {_a(f'{size} {name}'.strip())}."


def _size(scene: Scene, name: str, rng: random.Random) -> str:
    """Its size in the scene; an imagined object has a random one."""
    big = scene.big[scene.objects.index(name)] if name in scene.objects else rng.random() < 0.5
    return "big" if big else "small"
