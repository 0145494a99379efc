"""Writing answers with the policy: ``sample`` passes a request to one of the engines, one file each."""

from lit_uniopd.sampling.args import SamplingArgs, ServerArgs
from lit_uniopd.sampling.engines import Completions, check_servers, sample
from lit_uniopd.sampling.rollouts import write_answers

__all__ = ["Completions", "SamplingArgs", "ServerArgs", "check_servers", "sample", "write_answers"]
