"""The tiny image-text model that describes scenes, and hallucinates out of the habit of the writer it learned from."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lit_uniopd.playground.cache import cached
from lit_uniopd.playground.images import PATCH, SIDE
from lit_uniopd.playground.scenes import (
    QUESTION,
    SPREAD,
    STRAY,
    Scene,
    draw_scene,
    draw_scenes,
    words,
    write_caption,
    write_propagating_caption,
)
from lit_uniopd.playground.training import IGNORED, train_until
from lit_uniopd.policy.multimodal import vision_inputs
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.sampling.engines import sample
from lit_uniopd.utils.seeding import derive_seed

FORMAT = 2
"""Raise it when the code below or the scenes change what is built."""
SPECIAL = ("<pad>", "<bos>", "<eos>", "<image>", "\n")
PAD, BOS, EOS, PICTURE, LINE = range(len(SPECIAL))
PICTURE_TOKENS = (SIDE // PATCH) ** 2
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '\n' }}{% else %}{{ eos_token }}{% endif %}{% endfor %}"
)
NAMES = ("captioner", "scenes.jsonl", "heldout_scenes.jsonl")
PROPAGATING = "captioner_propagating"
"""It learned from the writer who strays; its pictures are those of ``captioner``."""


@dataclass(frozen=True)
class SceneRecipe:
    """How the captioner is made."""

    width: int = 64
    layers: int = 2
    batch_size: int = 48
    learning_rate: float = 3e-3
    stops_at: float = 0.97
    """Share of the objects of held-out scenes that greedy captions name."""
    first_check: int = 900
    max_steps: int = 4000
    stopping_scenes: int = 128
    scenes: int = 1024
    """Scenes to make pairs from."""
    heldout_scenes: int = 256


def locate_scene(name: str, root: str | Path, seed: int, recipe: SceneRecipe | None = None) -> Path:
    """The model or file behind ``playground:captioner``, ``playground:scenes`` or ``playground:heldout_scenes``."""
    recipe = recipe or SceneRecipe()
    target = Path(root) / f"scenes_seed{seed}"
    cache_key = {"format": FORMAT, "seed": seed, **asdict(recipe)}
    return cached(target, cache_key, NAMES, lambda out: _make(out, seed, recipe)) / name


def locate_propagating(root: str | Path, seed: int, recipe: SceneRecipe | None = None) -> Path:
    """The model behind ``playground:captioner_propagating``."""
    recipe = recipe or SceneRecipe()

    def make(out: Path) -> dict[str, Any]:
        return {PROPAGATING: _make_captioner(out / PROPAGATING, seed, recipe, write_propagating_caption)}

    target = Path(root) / f"scenes_seed{seed}-propagating"
    cache_key = {"format": FORMAT, "seed": seed, "stray": STRAY, "spread": SPREAD, **asdict(recipe)}
    return cached(target, cache_key, [PROPAGATING], make) / PROPAGATING


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word, with the space before it, and one for the full stop."""
    pieces = [*SPECIAL, ".", *(form for word in words() for form in (word, f" {word}"))]
    backend = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|\.|\n"), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_processor() -> LlavaProcessor:
    """The tokenizer, and pictures as they are drawn."""
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            do_resize=False, do_center_crop=False, image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5]
        ),
        tokenizer=make_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )


def make_model(seed: int, recipe: SceneRecipe) -> LlavaForConditionalGeneration:
    """A LLaVA with random weights."""
    half = {"hidden_size": recipe.width, "intermediate_size": 2 * recipe.width, "num_hidden_layers": recipe.layers}
    config = LlavaConfig(
        text_config={
            **half,
            "model_type": "qwen3",
            "vocab_size": len(make_tokenizer()),
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": recipe.width // 4,
            "max_position_embeddings": 256,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
            "tie_word_embeddings": True,
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
        },
        vision_config={
            **half,
            "model_type": "clip_vision_model",
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        image_token_index=PICTURE,
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: Any = LlavaForConditionalGeneration(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    return model


class Reader:
    """Encodes scenes as the processor does, and many times faster."""

    def __init__(self) -> None:
        self.tokenizer = make_tokenizer()
        self.question = [BOS, *[PICTURE] * PICTURE_TOKENS, *self.ids(QUESTION), LINE]

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def pixels(self, scene: Scene) -> dict[str, Tensor]:
        raw = torch.frombuffer(bytearray(scene.picture().tobytes()), dtype=torch.uint8).view(1, SIDE, SIDE, 3)
        return {"pixel_values": (raw.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5}

    def loss(self, model: PreTrainedModel, rows: list[tuple[Scene, str]]) -> Tensor:
        """Mean negative log-prob of the captions' tokens."""
        answers = [[*self.ids(text), EOS] for _, text in rows]
        width = max(map(len, answers))
        start, padding = len(self.question), [[PAD] * (width - len(answer)) for answer in answers]
        ids = torch.tensor([[*self.question, *a, *p] for a, p in zip(answers, padding, strict=True)])
        labels = ids.clone()
        labels[:, :start] = IGNORED
        labels[ids == PAD] = IGNORED
        pictures = vision_inputs(model, ids, [self.pixels(scene) for scene, _ in rows])
        return model(input_ids=ids, labels=labels, use_cache=False, **pictures).loss

    def captions(
        self, model: PreTrainedModel, scenes: list[Scene], *, temperature: float = 0.0, seed: int = 0
    ) -> list[str]:
        """One caption of each scene."""
        training = model.training
        model.eval()
        args = SamplingArgs(n=1, max_new_tokens=100, temperature=temperature, max_rows=256)
        vision = [self.pixels(scene) for scene in scenes]
        questions = [self.question] * len(scenes)
        completions = sample(model, questions, args, eos_ids={EOS}, pad_id=PAD, seed=seed, vision=vision)
        model.train(training)
        rows = [row[mask].tolist() for row, mask in zip(completions.tokens_BT, completions.mask_BT, strict=True)]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True)


def _make(out: Path, seed: int, recipe: SceneRecipe) -> dict[str, Any]:
    notes = _make_captioner(out / "captioner", seed, recipe, write_caption)
    (out / "pictures").mkdir()
    write_scenes(out / "scenes.jsonl", draw_scenes(seed, "train", recipe.scenes))
    write_scenes(out / "heldout_scenes.jsonl", draw_scenes(seed, "heldout", recipe.heldout_scenes))
    return {"captioner": notes}


def _make_captioner(
    path: Path, seed: int, recipe: SceneRecipe, write: Callable[[Scene, random.Random], str]
) -> dict[str, Any]:
    model, steps, recall = train_captioner(seed, recipe, write)
    model.save_pretrained(path)
    make_processor().save_pretrained(path)
    return {"steps": steps, "recall": recall}


def train_captioner(
    seed: int, recipe: SceneRecipe, write: Callable[[Scene, random.Random], str] = write_caption
) -> tuple[PreTrainedModel, int, float]:
    """Train on a writer's captions; returns model, steps and the recall of its greedy captions."""
    reader = Reader()
    stopping = draw_scenes(seed, "stopping", recipe.stopping_scenes)

    def loss(model: PreTrainedModel, rng: random.Random, step: int) -> Tensor:
        batch = [draw_scene(rng, "train") for _ in range(recipe.batch_size)]
        return reader.loss(model, [(scene, write(scene, rng)) for scene in batch])

    def score(model: PreTrainedModel) -> float:
        captions = [text.replace(".", "").split() for text in reader.captions(model, stopping)]
        hits = sum(name in caption for caption, scene in zip(captions, stopping, strict=True) for name in scene.objects)
        return hits / sum(len(scene.objects) for scene in stopping)

    return train_until(
        make_model(derive_seed("scenes", seed), recipe),
        loss,
        score,
        stop_at=recipe.stops_at,
        learning_rate=recipe.learning_rate,
        first_check=min(recipe.first_check, recipe.max_steps),
        check_every=100,
        max_steps=recipe.max_steps,
        averaging=0.97,
        seed=derive_seed("scenes", seed, "captions"),
        label="playground: the captioner learns to describe",
    )


def write_scenes(path: Path, scenes: list[Scene]) -> None:
    """Write rows, and their pictures beside them."""
    with path.open("w") as out:
        for i, scene in enumerate(scenes):
            file = f"pictures/{path.stem}-{i}.png"
            scene.picture().save(path.parent / file)
            row = {
                "id": f"{path.stem}-{i}",
                "prompt": QUESTION,
                "images": [file],
                "objects": sorted(scene.objects),
                "boxes": scene.boxes(),
                "domain": "scenes",
            }
            out.write(json.dumps(row) + "\n")
