"""One LightningModule per objective."""

from lit_uniopd.modules.opd_losses import LossArgs
from lit_uniopd.modules.sft import SFT
from lit_uniopd.modules.uni_opd import UniOPD

__all__ = ["SFT", "LossArgs", "UniOPD"]
