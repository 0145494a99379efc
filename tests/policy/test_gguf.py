"""A tiny Llama written as a GGUF file by the `gguf` package, as llama.cpp's converter lays it out, and read back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lit_uniopd.cli import main
from lit_uniopd.errors import UserError
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.policy.gguf import choose, convert, gguf_files

HEADS = 4
TEMPLATE = "{% for m in messages %}{{ '<s>' + m['content'] + '</s>' }}{% endfor %}"
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [("Ċ", "Ċ"), ("Ġ", "Ġ"), ("1", "2")]
TOKENS = ["<s>", "</s>", *BYTES, *("".join(pair) for pair in MERGES)]
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tokenizer_of(*splits: Any) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(TOKENS)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(TOKENS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=2,
            max_position_embeddings=128,
            rms_norm_eps=2**-17,  # a float32, as the file holds it
            rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        return LlamaForCausalLM(config)


def write(
    file: Path,
    model: LlamaForCausalLM,
    *,
    split: str | None = "smollm",
    more: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """The model as a file; ``more`` has further keys, ``without`` names tensors to leave out."""
    config: Any = model.config
    writer = GGUFWriter(file, options.get("architecture", "llama"))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    if split is not None:
        writer.add_tokenizer_pre(split)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3] + [1] * (len(TOKENS) - 2))
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for key, value in (more or {}).items():
        add: Any = writer.add_uint16 if isinstance(value, int) else writer.add_string
        add(key, value)
    weights = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    tensors = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
    }
    for i in range(config.num_hidden_layers):
        for theirs, ours in NAMES.items():
            value = weights[f"model.layers.{i}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):  # llama.cpp rotates neighbours, transformers the two halves
                heads = HEADS if ours == "attn_q" else config.num_key_value_heads
                value = value.reshape(heads, 2, -1, config.hidden_size).swapaxes(1, 2).reshape(value.shape)
            tensors[f"blk.{i}.{ours}.weight"] = value
    for name, value in tensors.items():
        if name not in options.get("without", ()):
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_converted_model_is_the_one_that_was_written(llama, tmp_path):
    """The model, its tokens, template and ends; with it everything that the house does with a directory."""
    file = write(tmp_path / "tiny.gguf", llama)
    assert not main_status(["convert", str(file), str(tmp_path / "out")])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    for name, value in llama.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    ids = torch.arange(20)[None]
    assert torch.equal(model(input_ids=ids).logits, llama.eval()(input_ids=ids).logits)
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (1, 1)
    wanted, read = (
        tokenizer_of(pre_tokenizers.Digits(individual_digits=True)),
        AutoTokenizer.from_pretrained(tmp_path / "out"),
    )
    for text in ("a\n\n12", "  3", "1\n\n\n2 3", "<s>é</s>", "½\n\n½"):
        assert read(text).input_ids == wanted(text, add_special_tokens=False).input_ids, text
    messages = [{"role": "user", "content": "hi"}]
    assert read.apply_chat_template(messages, tokenize=False) == "<s>hi</s>"
    policy = Policy.load(PolicyArgs(path=str(tmp_path / "out")), trainable=True)
    policy.save(tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").num_parameters() == llama.num_parameters()


def test_without_digits_first_a_number_behind_two_newlines_would_be_other_tokens(llama, tmp_path):
    """What transformers makes of the file by itself: should it learn this split, the table here can go."""
    write(tmp_path / "tiny.gguf", llama)
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")
    wanted = tokenizer_of(pre_tokenizers.Digits(individual_digits=True))
    assert theirs("a\n\n12").input_ids != wanted("a\n\n12", add_special_tokens=False).input_ids


def test_a_split_that_is_gpt2s_is_left_alone(llama, tmp_path):
    convert(write(tmp_path / "tiny.gguf", llama, split="gpt-2"), tmp_path / "out")
    read, wanted = AutoTokenizer.from_pretrained(tmp_path / "out"), tokenizer_of()
    for text in ("a\n\n12", "  3", "12 12"):
        assert read(text).input_ids == wanted(text, add_special_tokens=False).input_ids, text


def test_the_original_gives_what_the_file_does_not_tell(llama, tmp_path):
    llama.config.save_pretrained(tmp_path / "original")
    tokenizer_of(pre_tokenizers.Split("2", "isolated")).save_pretrained(tmp_path / "original")
    file = write(tmp_path / "tiny.gguf", llama, split="a-new-one")
    convert(file, tmp_path / "out", dtype=torch.bfloat16, original=str(tmp_path / "original"))
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("12").input_ids == [TOKENS.index("1"), TOKENS.index("2")]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


REFUSED = {
    "a split that nobody knows": (
        {"split": "a-new-one"},
        r"in a way not known here \('a-new-one'\); name .* by --original",
    ),
    "no split": ({"split": None}, r"in a way not known here \(nobody says how\); name .* by --original"),
    "longer contexts": ({"more": {"llama.rope.scaling.type": "yarn"}}, "scales its positions"),
    "a part": (
        {"more": {"split.count": 3}},
        "is one of 3 parts; give the file that llama.cpp's `llama-gguf-split --merge",
    ),
    "a missing tensor": ({"without": ["blk.1.ffn_up.weight"]}, r"lacks 1 tensors of the model \(model.layers.1.mlp.up"),
    "an architecture that is not there": (
        {"architecture": "clip"},
        r"cannot be converted \(.*clip.*\); give another file",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_become_another_model_is_refused(case, llama, tmp_path):
    options, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        convert(write(tmp_path / "tiny.gguf", llama, **options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.1, 0.5, 0.99])
def test_a_torn_file_is_one_sentence(share, llama, tmp_path):
    content = write(tmp_path / "tiny.gguf", llama).read_bytes()
    (tmp_path / "torn.gguf").write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        UserError, match=r"torn\.gguf (is no GGUF file|cannot be converted).*; give another file, or download"
    ):
        convert(tmp_path / "torn.gguf", tmp_path / "out")


def main_status(arguments: list[str]) -> Any:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


def test_the_path_of_a_gguf_file_is_answered_by_the_command_that_converts_it(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("one").mkdir()
    file = write(Path("one/a.Q8.gguf"), llama)
    for path in ("one", "one/a.Q8.gguf"):
        with pytest.raises(
            UserError, match=rf"--model.student.path {path}: it is in GGUF; convert it by `uniopd convert {file} OUT`"
        ):
            Policy.load(PolicyArgs(path=path), trainable=True, flag="model.student")
    with pytest.raises(UserError, match=r"--model.student.tokenizer one: it is in GGUF"):
        Policy.load(
            PolicyArgs(path="one", tokenizer="one", config={"model_type": "llama"}),
            trainable=True,
            flag="model.student",
        )
    write(Path("one/b.Q4.gguf"), llama)
    with pytest.raises(
        UserError, match=r"convert one of its files \(a\.Q8\.gguf, b\.Q4\.gguf\) by `uniopd convert one/FILE OUT`"
    ):
        Policy.load(PolicyArgs(path="one"), trainable=True, flag="model.student")
    with pytest.raises(
        UserError, match=r"one has 2 GGUF files; give the path of one of them \(a\.Q8\.gguf, b\.Q4\.gguf\)"
    ):
        choose(Path("one"))
    with pytest.raises(UserError, match=r"nowhere\.gguf is no GGUF file and no directory of one"):
        choose(Path("nowhere.gguf"))
    Path("one/config.json").write_text("{}")  # a model of transformers' with its quantisations beside it
    assert gguf_files("one") == []
