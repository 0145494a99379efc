"""Scenes and their writer: what is said of what is there, what is imagined, and the captioner's own format."""

import json
import random
from collections import Counter
from dataclasses import asdict, replace
from itertools import pairwise

import torch
from PIL import Image
from safetensors.torch import load_file
from scenes_data import RECIPE, captioner

from lit_uniopd.hallucination import coco
from lit_uniopd.playground.captioner import Reader, locate_propagating, make_tokenizer
from lit_uniopd.playground.scene_pairs import read_scenes
from lit_uniopd.playground.scenes import (
    OBJECTS,
    OTHER,
    QUESTION,
    draw_scene,
    draw_scenes,
    words,
    write_caption,
    write_propagating_caption,
)
from lit_uniopd.policy import Policy, PolicyArgs


def test_objects_are_cocos_so_that_its_lexicon_finds_them():
    assert set(OBJECTS) <= set(coco().classes)
    assert all(OTHER[OTHER[name]] == name for name in OBJECTS)


def test_the_writer_names_all_that_is_there_and_imagines_other_halves_only():
    rng, imagined, possible = random.Random(0), 0, 0
    scenes = [draw_scene(rng, "train") for _ in range(300)]
    for scene in scenes:
        mentioned = [name for _, name in coco().mentions(write_caption(scene, rng))]
        assert set(scene.objects) <= set(mentioned)
        assert {OTHER[name] for name in set(mentioned) - set(scene.objects)} <= set(scene.objects)
        imagined += len(set(mentioned) - set(scene.objects))
        possible += sum(OTHER[name] not in scene.objects for name in scene.objects)
        careful = write_caption(scene, rng, habit=0.0)
        assert {name for _, name in coco().mentions(careful)} == set(scene.objects)
    assert 0.43 < imagined / possible < 0.57, "half of them, within four standard deviations"


def test_a_writer_who_strays_goes_on_straying():
    rng = random.Random(0)
    chances: dict[bool, list[bool]] = {True: [], False: []}
    for scene in [draw_scene(rng, "train") for _ in range(600)]:
        sentences = write_propagating_caption(scene, rng).rstrip(".").split(". ")
        named = [sentence.split()[-1] for sentence in sentences]
        assert set(scene.objects) <= set(named)
        assert len(set(named)) == len(named)
        for number, (last, name) in enumerate(pairwise(named), start=1):
            behind = OBJECTS[(OBJECTS.index(last) + 1) % len(OBJECTS)]
            if name not in scene.objects:
                assert name == behind
                assert sentences[number].startswith(f"Beside the {last} is ")
            if behind not in (*scene.objects, *named[:number]) and not set(scene.objects) <= set(named[:number]):
                chances[last in scene.objects].append(name == behind)
    # A quarter behind what is there, 70 % behind what is not, within four standard deviations.
    for there, share in ((True, 0.25), (False, 0.7)):
        error = (share * (1 - share) / len(chances[there])) ** 0.5
        assert len(chances[there]) > 100
        assert abs(sum(chances[there]) / len(chances[there]) - share) < 4 * error


def test_the_captioner_of_each_writer_has_a_folder_of_its_own(tmp_path):
    recipe = replace(RECIPE, first_check=1, max_steps=1)
    habit, propagating = captioner(tmp_path, steps=1), locate_propagating(tmp_path, 0, recipe)
    kept = json.loads((habit.parent / "recipe.json").read_text())["recipe"]
    assert kept == {"format": 2, "seed": 0, **asdict(recipe)}, "as it was before there were two"
    weights = [load_file(model / "model.safetensors") for model in (habit, propagating)]
    assert not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert Policy.load(PolicyArgs(path=str(propagating)), trainable=False).eos_ids


def test_splits_are_disjoint_and_repeatable():
    train, heldout = draw_scenes(0, "train", 200), draw_scenes(0, "heldout", 200)
    assert train == draw_scenes(0, "train", 200) != draw_scenes(1, "train", 200)
    assert not set(train) & set(heldout)


def test_every_scene_looks_different():
    pictures = Counter(scene.picture().tobytes() for scene in set(draw_scenes(0, "train", 300)))
    # The order of the objects is not to be seen.
    assert len(pictures) > 295


def test_every_word_is_a_token_with_the_space_before_it():
    tokenizer = make_tokenizer()
    text = "There is an apple. Beside the apple is a small dog."
    tokens = [str(tokenizer.decode([i])) for i in tokenizer(text).input_ids]
    assert tokens[:5] == ["There", " is", " an", " apple", "."]
    assert "".join(tokens) == text
    assert all(tokenizer.unk_token is None or word in text or word in tokenizer.get_vocab() for word in words())


def test_the_reader_is_the_processor_only_faster(tmp_path):
    root = captioner(tmp_path, steps=1).parent
    policy = Policy.load(PolicyArgs(path=str(root / "captioner")), trainable=False)
    prompts = read_scenes(root / "scenes.jsonl")
    reader, train = Reader(), draw_scenes(0, "train", 12)
    for prompt, scene in zip(prompts, train, strict=True):
        encoded = policy.encode(prompt)
        assert encoded.tokens == reader.question
        torch.testing.assert_close(encoded.vision["pixel_values"], reader.pixels(scene)["pixel_values"])
        with Image.open(prompt.images[0]) as picture:
            assert picture.tobytes() == scene.picture().tobytes()
        assert prompt.row["objects"] == sorted(scene.objects)
    assert QUESTION in policy.tokenizer.decode(reader.question)
