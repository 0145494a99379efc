"""Tokenizer and models of the playground: one token per character, a two-layer Qwen3 of 190,000 parameters."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

PAD, BOS, EOS = 0, 1, 2
CHARACTERS = "01234+-=,%:MCRLSabcdefgh"
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer that decodes without added spaces; its chat template is <bos> and the message."""
    table = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(table, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(seed: int, width: int, layers: int) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights, the same for the same seed."""
    config = Qwen3Config(
        vocab_size=3 + len(CHARACTERS),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=width // 4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},  # answers are 40 tokens long, not 40,000
        initializer_range=0.1,  # with the usual 0.02, learning the arithmetic takes five times as many steps
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(config)


def encode(text: str) -> list[int]:
    """Ids of a text; the same as the tokenizer's, and a hundred times faster."""
    return [3 + CHARACTERS.index(character) for character in text]
