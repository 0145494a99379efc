"""Scenes and their writer: what is said of what is there, what is imagined, and the captioner's own format."""

import random
from collections import Counter

import torch
from PIL import Image
from scenes_data import captioner

from lit_uniopd.hallucination import coco
from lit_uniopd.playground.captioner import Reader, make_tokenizer
from lit_uniopd.playground.scene_pairs import read_scenes
from lit_uniopd.playground.scenes import OBJECTS, OTHER, QUESTION, draw_scene, draw_scenes, words, write_caption
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
