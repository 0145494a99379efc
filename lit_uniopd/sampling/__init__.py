"""Writing answers with the policy: ``sample`` passes a request to one of the engines, one file each."""

from lit_uniopd.sampling.args import ColocateArgs, SamplingArgs, ServerArgs
from lit_uniopd.sampling.engines import Completions, check_engine, sample
from lit_uniopd.sampling.rollouts import write_answers

__all__ = ["ColocateArgs", "Completions", "SamplingArgs", "ServerArgs", "check_engine", "sample", "write_answers"]
