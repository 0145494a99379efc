"""The multimodal playground: pictures hold what prompts leave out, and everything around them is the hub's format."""

import random
from pathlib import Path

import pytest
import torch

from datamodules import SourceArgs
from datamodules.sources import read_prompts
from lit_uniopd.errors import UserError
from lit_uniopd.playground.images import draw_chart, draw_document, draw_shapes
from lit_uniopd.playground.models import make_tokenizer
from lit_uniopd.playground.recipe import Recipe
from lit_uniopd.playground.tasks import LETTERS, result
from lit_uniopd.playground.vision import VisionRecipe, locate_vision
from lit_uniopd.playground.vision_models import encode, make_processor
from lit_uniopd.playground.vision_tasks import VISION_DOMAINS, distinct_questions, draw_question
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.policy.chat_template import encode as encode_prompt
from lit_uniopd.types import Prompt


def test_every_content_has_its_own_picture():
    for draw, contents in (
        (draw_chart, [[a, b, 1, 2] for a in range(5) for b in range(5)]),
        (draw_document, [[a, b, 1, 2] for a in range(5) for b in range(5)]),
        (draw_shapes, [a + b + "ab" for a in LETTERS for b in LETTERS]),
    ):
        assert len({draw(content).tobytes() for content in contents}) == len(contents)  # type: ignore[arg-type]


def test_questions_ask_for_what_their_pictures_show():
    rng = random.Random(0)
    chart = draw_question(rng, "chart", 2, "train")
    first, second, third = chart.content[:3]
    first_sign, second_sign = chart.prompt.removeprefix("B<image>").removesuffix("%=")
    assert chart.text_form == f"M{first}{first_sign}{second}{second_sign}{third}%="
    shapes = draw_question(rng, "shapes", 1, "train")
    assert shapes.content in shapes.text_form
    assert shapes.content not in shapes.prompt
    assert set(result(shapes.text_form)) == set(shapes.content)
    assert draw_question(rng, "code", 1, "train").picture() is None


@pytest.mark.parametrize("domain", VISION_DOMAINS)
def test_splits_are_disjoint_and_the_fast_encoding_is_the_processors(domain):
    train, heldout = (distinct_questions(0, domain, split, 40) for split in ("train", "heldout"))
    assert not {q.key for q in train} & {q.key for q in heldout}
    processor = make_processor()
    for question in train[:8]:
        picture = question.picture()
        before, _, after = question.prompt.partition("<image>")
        content = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
        prompt = Prompt(
            id="q",
            messages=({"role": "user", "content": content if picture else question.prompt},),
            images=(picture,) if picture else (),
        )
        expected, (tokens, vision) = encode_prompt(processor, prompt, {}), encode(question)
        assert expected.tokens == tokens
        assert set(expected.vision) == set(vision)
        for name, value in vision.items():
            torch.testing.assert_close(expected.vision[name], value)


def test_the_text_playgrounds_ids_stay_so_its_experts_can_teach():
    vocabulary, text_vocabulary = make_processor().tokenizer.get_vocab(), make_tokenizer().get_vocab()
    assert text_vocabulary.items() <= vocabulary.items()
    assert len(vocabulary) == len(text_vocabulary) + 4


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("playgrounds")
    text = Recipe(
        width=16,
        batch_size=2,
        warmup_steps=0,
        student_stops_at=0,
        teacher_stops_at=0,
        max_steps=2,
        train_prompts=4,
        stopping_prompts=4,
        heldout_prompts=4,
    )
    seeing = VisionRecipe(
        batch_size=4,
        student_stops_at=0,
        teacher_stops_at=0,
        max_steps=2,
        train_prompts=5,
        stopping_prompts=2,
        heldout_prompts=3,
    )
    locate_vision("student", root, 3, seeing, text)
    return locate_vision("student", root, 3, seeing, text).parent


def test_a_build_holds_models_prompts_and_pictures(built):
    prompts = read_prompts(SourceArgs(str(built / "train.jsonl")), "--data.train")
    assert len(prompts) == 4 * 5
    selected = read_prompts(SourceArgs(str(built / "train.jsonl"), only_domains=["chart", "code"]), "--data.train")
    assert [prompt.domain for prompt in selected] == ["chart"] * 5 + ["code"] * 5
    policy = Policy.load(PolicyArgs(path=str(built / "chart_teacher")), trainable=False)
    encoded = policy.encode(selected[0])
    assert encoded.vision["pixel_values"].shape == (1, 3, 32, 32)
    assert not policy.encode(selected[-1]).vision
    assert (built / "recipe.json").exists()


def test_unknown_names_and_domains_are_told(built, tmp_path):
    with pytest.raises(UserError, match="vision_heldout"):
        locate_vision("nobody", tmp_path, 0)
    with pytest.raises(UserError, match=r"--data\.train\.only_domains has 'law', but .* has chart, code, document"):
        read_prompts(SourceArgs(str(built / "train.jsonl"), only_domains=["law"]), "--data.train")
