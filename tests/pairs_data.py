"""Four preference pairs, and a module and datamodule for them."""

from pathlib import Path
from typing import Any

from tiny import sgd

from datamodules import PairSourceArgs, PreferenceDataModule
from lit_uniopd.modules import OmniDPO
from lit_uniopd.policy import PolicyArgs

ROWS = [
    {"prompt": "1+1=", "chosen": "2", "rejected": "3, i think", "score_chosen": 4.5, "score_rejected": 1.0},
    {"prompt": "say abc", "chosen": "a, b, c", "rejected": "abd", "score_chosen": 3.2, "score_rejected": 3.0},
    {"prompt": "hello", "chosen": "hello!", "rejected": "no", "score_chosen": 2.0, "score_rejected": 2.5},
    {"prompt": "9-4=", "chosen": "5", "rejected": "6", "score_chosen": 5.0, "score_rejected": 0.0},
]


def data(path: Path, **options: Any) -> PreferenceDataModule:
    source = PairSourceArgs(path=str(path))
    return PreferenceDataModule(**{"train": source, "val": source, "batch_size": 4, "shuffle": False} | options)


def omni(path: str, **options: Any) -> OmniDPO:
    policy = PolicyArgs(path=path, lora=options.pop("lora", None))
    return OmniDPO(policy, **{"optimizer": sgd, "seed": 3} | options)
