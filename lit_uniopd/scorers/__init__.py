"""Scores of answers: by the grader, a reward model, a process reward model, or a judge behind an endpoint."""

from lit_uniopd.scorers.base import GraderScore as GraderScore
from lit_uniopd.scorers.base import Scorer as Scorer
from lit_uniopd.scorers.judge import Judge as Judge
from lit_uniopd.scorers.process_reward import ProcessRewardModel as ProcessRewardModel
from lit_uniopd.scorers.reward_model import RewardModel as RewardModel
