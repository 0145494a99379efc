"""One LightningModule per objective, and one that only evaluates."""

from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.modules.evaluate_only import Evaluation
from lit_uniopd.modules.opd.losses import LossArgs
from lit_uniopd.modules.opd.uni_opd import UniOPD
from lit_uniopd.modules.preference.base import PreferenceModule
from lit_uniopd.modules.preference.dpo import DPO
from lit_uniopd.modules.preference.losses import PairLossArgs
from lit_uniopd.modules.preference.omni_dpo import OmniDPO
from lit_uniopd.modules.preference.sentinel import Sentinel
from lit_uniopd.modules.sentinel_bootstrap import SentenceBootstrap
from lit_uniopd.modules.sft import SFT

__all__ = [
    "DPO",
    "SFT",
    "Evaluation",
    "LossArgs",
    "OmniDPO",
    "PairLossArgs",
    "PolicyModule",
    "PreferenceModule",
    "SentenceBootstrap",
    "Sentinel",
    "UniOPD",
]
