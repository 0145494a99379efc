"""Preference pairs about pictures: they train, mixed with text, and the picture matters."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import sgd, trainer

from datamodules import PairSourceArgs, PreferenceDataModule
from lit_uniopd.errors import UserError
from lit_uniopd.modules import OmniDPO, PairLossArgs
from lit_uniopd.playground.untrained import write_tiny_vision
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.types import PairBatch


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for colour in ("red", "blue"):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{colour}.png")
    rows = [
        {"prompt": "what? <image>", "images": ["red.png"], "chosen": "red", "rejected": "blue, i say"},
        {"prompt": "what? <image>", "images": ["blue.png"], "chosen": "red", "rejected": "blue, i say"},
        {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fitted(table: Path, root: Path) -> tuple[OmniDPO, PreferenceDataModule]:
    write_tiny_vision(root / "model", 0)
    module = OmniDPO(PolicyArgs(path=str(root / "model")), PairLossArgs(kind="dpo", beta=0.5), optimizer=sgd, seed=1)
    data = PreferenceDataModule(train=PairSourceArgs(path=str(table)), batch_size=3, shuffle=False)
    trainer(root, max_steps=2).fit(module, data)
    return module, data


def test_pictures_are_read_and_pairs_do_not_depend_on_their_batch(table, tmp_path):
    module, data = fitted(table, tmp_path)
    together, logps = module.compare(PairBatch(data.train_pairs))
    alone = [module.compare(PairBatch([pair]))[0].per_pair for pair in data.train_pairs]
    torch.testing.assert_close(together.per_pair, torch.cat(alone), rtol=1e-4, atol=1e-5)
    red, blue = logps.policy_P2[:2]
    assert not torch.allclose(red, blue)  # the same words about another picture
    module.zero_grad()
    together.loss.backward()
    tower = [p.grad for name, p in module.named_parameters() if "vision_tower.embeddings.patch" in name]
    assert all(grad is not None and bool(grad.any()) for grad in tower)
    assert tower


def test_a_prompt_is_as_long_as_its_picture_makes_it(table, tmp_path):
    write_tiny_vision(tmp_path / "model", 0)
    module = OmniDPO(PolicyArgs(path=str(tmp_path / "model")), PairLossArgs(kind="dpo"), optimizer=sgd)
    data = PreferenceDataModule(train=PairSourceArgs(path=str(table)), max_prompt_tokens=30)
    data.answers = module
    data.setup("fit")
    assert data.report["--data.train"].long_prompts == 2
    (words,) = data.train_pairs
    assert 0 < len(words.prompt_tokens) <= 30


def test_a_model_without_eyes_is_refused(table, tmp_path, model_dirs):
    module = OmniDPO(PolicyArgs(path=model_dirs["student"]), optimizer=sgd)
    with pytest.raises(UserError, match="use an MLLM"):
        trainer(tmp_path).fit(module, PreferenceDataModule(train=PairSourceArgs(path=str(table)), batch_size=3))
