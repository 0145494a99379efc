"""Rows of our own in the formats in which data sets are published; nothing in them is taken from one."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from pyarrow import parquet

SUM = {"inputs": ["3\n1 2 3\n", "1\n-4\n"], "outputs": ["6\n", "-4\n"]}
CLIP = {"fn_name": "clip", "inputs": ['[5, -1]\n"low"'], "outputs": ["[5, 0]"]}


def picture(side: int = 32) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (side, side), "teal").save(data, "PNG")
    return data.getvalue()


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def verl(prompt: list[dict[str, Any]], gold: Any, source: str, ability: str, index: int, **more: Any) -> dict[str, Any]:
    reward = {"ground_truth": gold, "style": "rule"}
    extra = {"index": index, "split": "train"}
    return {
        "data_source": source,
        "prompt": prompt,
        "ability": ability,
        "reward_model": reward,
        "extra_info": extra,
        **more,
    }


SYSTEM = {"role": "system", "content": "Think aloud, step by step."}
PAIR = {"chosen": [user("Name a colour."), assistant("Teal.")], "rejected": [user("Name a colour."), assistant("7")]}
SCORES = {"score_chosen": 8.5, "score_rejected": 3.0}
CHATML = "<|im_start|>system\nPut the answer into a box.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n"
CAPTION = {
    "question": "Describe this image in detail.",
    "context": "A teal square.",
    "y_win": "It is flat.",
    "y_lose": "A cat sits.",
}

PUBLISHED: dict[str, tuple[str, list[dict[str, Any]] | dict[str, Any]]] = {
    "eurus": (
        "train.parquet",
        [
            verl([SYSTEM, user("Read n numbers, print their sum.")], json.dumps(SUM), "taco", "code", 0),
            verl([SYSTEM, user("Write clip(xs, how).")], json.dumps(CLIP), "apps", "code", 1),
            verl([SYSTEM, user("What is 3 + 4?")], "7", "numina_olympiads", "math", 2),
        ],
    ),
    "verl": (
        "train.parquet",
        [
            verl([user("Ann has 3 pens and buys 4. How many has she?")], "7", "openai/gsm8k", "math", 0),
            verl([user("Half of 9?")], "4.5", "openai/gsm8k", "math", 1),
        ],
    ),
    "uni_opd_code": (
        "offline_data_balanced.jsonl",
        [
            {"prompt": [user("Read n numbers, print their sum.")], "label": json.dumps(SUM)},
            {"prompt": "Write clip(xs, how).", "label": {"fn_name": "clip", "inputs": [[[5, -1], "low"]], "outputs": [[[5, 0]]]}},
        ],
    ),
    "uni_opd_math": ("offline_data_balanced.jsonl", [{"prompt": "What is 3 + 4?", "label": "7"}]),
    "deepmath": (
        "train-00000-of-00001.parquet",
        [{"question": "What is 3 + 4?", "final_answer": "7", "difficulty": 6.0, "topic": "Arithmetic", "r1_solution_1": "..."}],
    ),
    "openmathreasoning": (
        "cot.jsonl",
        [{"problem": "Half of 9?", "expected_answer": "\\frac{9}{2}", "problem_type": "has_answer_extracted", "generated_solution": "..."}],
    ),
    "openmmreasoner": (
        "mmk12_train.parquet",
        [
            verl([user("<image>How many squares?")], "1", "mmk12", "math", 0, images=[{"bytes": picture(), "path": None}]),
            verl([user("<image>Which? (A) teal (B) red")], "A", "tqa", "vqa", 1, images=[{"bytes": picture(40), "path": None}]),
        ],
    ),
    "chartqa": (
        "train.parquet",
        [{"image": {"bytes": picture(), "path": None}, "query": "How many bars?", "label": ["3"], "human_or_machine": 0}],
    ),
    "ultrafeedback_binarized": ("train_prefs-00000-of-00001.parquet", [{"prompt": "Name a colour.", "prompt_id": "a1", **PAIR, "messages": PAIR["chosen"], **SCORES}]),
    "ultrafeedback": (
        "evol_instruct.jsonl",
        [
            {
                "source": "evol_instruct",
                "instruction": "Name a colour.",
                "models": ["a", "b", "c"],
                "completions": [{"model": m, "response": r, "overall_score": s} for m, r, s in [("a", "7", 2.0), ("b", "Teal.", 8.5), ("c", "Hm.", 5.0)]],
            }
        ],
    ),
    "armorm": (
        "train.parquet",
        [{"prompt_id": "a1", "prompt": "Name a colour.", "all_generated_responses": ["7", "Teal.", "Hm."], "all_rm_scores": [0.05, 0.16, 0.11], **PAIR}],
    ),
    "omni_dpo_text": ("train.jsonl", [{**PAIR, "score_chosen": 4.5, "score_rejected": 2.0}]),
    "omni_dpo_math": (
        "Train_Qwen_2_5_math_7B.jsonl",
        [
            {
                "prompt": CHATML,
                "chosen": "\\boxed{4}<|im_end|>",
                "rejected": "\\boxed{5}",
                **{"score_chosen": 9.0, "score_rejected": 2.0, "score_margin": 7.0, "score_margin_normalized": 1.2},
                **{"correct_chosen": True, "correct_rejected": False},
            }
        ],
    ),
    "omni_dpo_vision": (
        "mm_rlhf_image.json",
        [{"instruction": "<image>What colour?", "chosen": "Teal.", "rejected": "Red.", "score_chosen": 3.0, "score_rejected": 1.0, "images": ["mcq/7.png"]}],
    ),
    "sentinel_llava_v15": ("LLaVA_v1_5_7b.json", {"2315": [{**CAPTION, "type": "y+"}], "2316": [{**CAPTION, "context": ""}, CAPTION]}),
    "sentinel_llama_factory": (
        "Qwen2_VL_7B.json",
        [{"instruction": "<image>Describe this image.", "context": CAPTION["context"], "chosen": "It is flat.", "rejected": "A cat.", "images": ["/data/VG_100K/2315.png"]}],
    ),
    "sentinel_data_pair": ("llava_data_pair.jsonl", [{"image_id": "2315", "image_path": "/data/VG_100K/2315.png", **CAPTION, "is_last_sent": False}]),
    "swift": ("rlhf.jsonl", [{"messages": PAIR["chosen"], "rejected_response": "7"}]),
    "sharegpt": (
        "dpo.json",
        [{"conversations": [{"from": "human", "value": "Name a colour."}], "chosen": {"from": "gpt", "value": "Teal."}, "rejected": {"from": "gpt", "value": "7"}}],
    ),
}  # fmt: skip
"""Name -> the file that it is published as, and its rows."""


def write_published(name: str, folder: Path) -> Path:
    """Write rows as they are published, with the folder of pictures that they name (``pictures``)."""
    file, rows = PUBLISHED[name]
    path = folder / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for picture_path in ("mcq/7.png", "VG_100K/2315.png", "VG_100K_2/2316.png"):
        (folder / "pictures" / picture_path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "pictures" / picture_path).write_bytes(picture())
    return path
