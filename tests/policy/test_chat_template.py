"""Where prompts and answers begin and end, on templates cut to the size of those of known models."""

from types import SimpleNamespace
from typing import Any

import pytest
from tiny import CHARACTERS, make_model, make_tokenizer
from tokenizers.processors import TemplateProcessing

from lit_uniopd.errors import UserError
from lit_uniopd.policy import Policy, PolicyArgs
from lit_uniopd.policy.chat_template import answer_end, encode_answer, encode_continuation, render
from lit_uniopd.types import Prompt

USER = {"role": "user", "content": "hi"}
PROMPT = Prompt("p", (USER,))
LOOP, ASK = "{% for m in messages %}", "{% if add_generation_prompt %}<start>a:{% endif %}"
TURN = "<start>{{ m['role'][0] }}:{{ m['content'] }}"
MARKS = ("<start>", "<think>", "</think>", "<return>", "<done>")
CASES = {
    # Gemma, Qwen's base models: the turn ends with another token than the tokenizer names, and a newline follows.
    "gemma": (f"<bos>{LOOP}{TURN}<end>\n{{% endfor %}}{ASK}", "yes<end>"),
    # Phi-4-mini: the end-of-sequence token ends the conversation.
    "phi": (f"{LOOP}{TURN}<end>{{% endfor %}}{ASK[:-11]}{{% else %}}<eos>{{% endif %}}", "yes<end>"),
    "phi, newlines": (f"{LOOP}{TURN}<end>\n{{% endfor %}}{ASK[:-11]}{{% else %}}<eos>{{% endif %}}", "yes<end>"),
    "chatml": (f"{LOOP}{TURN}<eos>\n{{% endfor %}}{ASK}", "yes<eos>"),
    # Llama 2: a space stands before the end.
    "llama 2": (
        LOOP + "{% if m['role'] == 'user' %}<bos>[ {{ m['content'] }} ]{% else %} {{ m['content'] }} <eos>{% endif %}"
        "{% endfor %}",
        " yes <eos>",
    ),
    # Cohere: the answer is a part of the turn, and each has its end.
    "cohere": (f"{LOOP}{TURN}<done><end>{{% endfor %}}{ASK}", "yes<done><end>"),
    # gpt-oss: the last answer ends otherwise than those before it.
    "harmony": (
        LOOP
        + TURN
        + "{% if loop.last and m['role'] == 'assistant' %}<return>{% else %}<end>{% endif %}{% endfor %}"
        + ASK,
        "yes<return>",
    ),
    # Vicuna's like without a token: the template ends turns with plain text only.
    "text": (f"{LOOP}{{{{ m['role'][0] }}}}: {{{{ m['content'] }}}}\n{{% endfor %}}", "a: yes<eos>"),
    "text mark": (f"{LOOP}{TURN}::\n{{% endfor %}}{ASK}", "yes::<eos>"),
    # Qwen 3 without thinking: the template writes an empty thought, which its generation prompt has not.
    "thinks": (
        LOOP + "<start>{{ m['role'][0] }}:{% if m['role'] == 'assistant' %}<think></think>{% endif %}{{ m['content'] }}"
        "<end>\n{% endfor %}" + ASK,
        "<think></think>yes<end>",
    ),
    "none": (None, "yes<eos>"),
}


def speaks(template: str | None) -> Any:
    tokenizer = make_tokenizer(template, extra=MARKS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>", *MARKS]})
    return tokenizer


@pytest.mark.parametrize("name", CASES)
def test_an_answer_ends_as_its_turn_does(name):
    template, expected = CASES[name]
    tokenizer = speaks(template)
    before, answer = encode_answer(tokenizer, PROMPT, "yes", {})
    assert before == render(tokenizer, PROMPT, {})
    assert tokenizer.decode(answer) == expected
    # The same end, once, where the data write it, with all that the template writes behind it or a newline.
    end = answer_end(tokenizer, {})
    assert answer[-1] == end.token
    for text in (end.text, *end.marks, f"{end.text}\n", f"{end.text}\n<eos>", "<eos><eos>"):
        assert encode_answer(tokenizer, PROMPT, f"yes{text}", {})[1] == answer
    # An empty answer is nothing but its end; spaces before it are nobody's.
    empty = tokenizer.decode(encode_answer(tokenizer, PROMPT, "", {})[1])
    assert empty.replace(" ", "") == expected.replace("yes", "").replace(" ", "")


@pytest.mark.parametrize("name", CASES)
def test_an_answer_that_goes_on_behind_an_end_is_refused(name):
    tokenizer = speaks(CASES[name][0])
    for mark in answer_end(tokenizer, {}).marks:
        for encode in (encode_answer, encode_continuation):
            with pytest.raises(
                UserError, match=f"Prompt 'p': its answer goes on behind '{mark}', where the model stops"
            ):
                encode(tokenizer, PROMPT, f"yes{mark} no", {})


def test_a_template_that_drops_the_reasoning_does_not_drop_it_from_what_is_learnt():
    """DeepSeek-R1's keeps of old answers what stands behind the thought."""
    template = LOOP + "<start>{{ m['role'][0] }}:{{ m['content'].split('</think>')[-1] }}<end>\n{% endfor %}" + ASK
    tokenizer = speaks(template)
    assert (
        tokenizer.decode(encode_answer(tokenizer, PROMPT, "<think>1+1</think>2", {})[1]) == "<think>1+1</think>2<end>"
    )


def test_a_template_that_reads_parts_only():
    template = LOOP + "<start>{% for part in m['content'] %}{{ part['text'] }}{% endfor %}<end>\n{% endfor %}" + ASK
    end = answer_end(SimpleNamespace(tokenizer=speaks(None), chat_template=template), {})
    assert (end.text, end.written) == ("<end>", True)


def test_another_template_or_end_token_is_another_end():
    tokenizer = speaks(CASES["gemma"][0])
    assert answer_end(tokenizer, {}).text == "<end>"
    tokenizer.chat_template = CASES["chatml"][0]
    assert answer_end(tokenizer, {}).text == "<eos>"
    tokenizer.chat_template, tokenizer.eos_token = None, None
    assert answer_end(tokenizer, {}) == answer_end(speaks_nothing(), {})


def speaks_nothing() -> Any:
    tokenizer = make_tokenizer(None)
    tokenizer.eos_token = None
    return tokenizer


@pytest.mark.parametrize(
    ("frame", "before"),
    [
        ("<bos> $A <eos>", "<bos>"),
        ("$A <eos>", ""),
        ("<bos> $A", "<bos>"),
        ("<bos> <end> $A <end> <eos>", "<bos><end>"),
    ],
)
@pytest.mark.parametrize("text", ["hi", "i", "<bos>hi", "hi<eos>hi"])
def test_what_a_tokenizer_writes_behind_a_prompt_is_not_part_of_it(frame, before, text):
    """`add_eos_token` of Llama's tokenizers, SEP of others; the answer follows there."""
    tokenizer = make_tokenizer(None)
    marks = [("<bos>", 1), ("<eos>", 2), ("<end>", 3)]
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=frame, special_tokens=marks)  # type: ignore[attr-defined]
    prompt = Prompt("p", ({"role": "user", "content": text},))
    asked, answer = encode_answer(tokenizer, prompt, "yes", {})
    written = text if text.startswith("<bos>") else before + text  # the data's own beginning is not doubled
    assert (tokenizer.decode(asked), tokenizer.decode(answer)) == (written, "yes<eos>")
    assert render(tokenizer, prompt, {}) == asked
    assert encode_continuation(tokenizer, prompt, "yes", {}) == (asked, answer[:-1])


def test_an_empty_prompt_keeps_its_beginning():
    tokenizer = make_tokenizer(None)
    tokenizer._tokenizer.post_processor = TemplateProcessing(  # type: ignore[attr-defined]
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    assert render(tokenizer, Prompt("p", ({"role": "user", "content": ""},)), {}) == [1]


def test_a_rollout_stops_where_training_ends_answers(tmp_path):
    """The model's files name <eos> only, the template ends turns with <end>."""
    path = str(make_model(tmp_path / "model"))
    policy = Policy.load(PolicyArgs(path=path), trainable=False)
    names = set(policy.tokenizer.convert_ids_to_tokens(sorted(policy.eos_ids)))
    assert names == {"<eos>", "<end>"}
    assert all(character not in names for character in CHARACTERS)
