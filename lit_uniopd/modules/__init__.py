"""One LightningModule per objective, and one that only evaluates."""

from lit_uniopd.modules.evaluation import Evaluation
from lit_uniopd.modules.omni_dpo import OmniDPO
from lit_uniopd.modules.opd_losses import LossArgs
from lit_uniopd.modules.pair_losses import PairLossArgs
from lit_uniopd.modules.sentence_bootstrap import SentenceBootstrap
from lit_uniopd.modules.sentinel import Sentinel
from lit_uniopd.modules.sft import SFT
from lit_uniopd.modules.uni_opd import UniOPD

__all__ = ["SFT", "Evaluation", "LossArgs", "OmniDPO", "PairLossArgs", "SentenceBootstrap", "Sentinel", "UniOPD"]
