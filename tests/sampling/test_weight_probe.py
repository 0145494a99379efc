"""Old weights are told from changes that are lost in rounding."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_uniopd.errors import UserError
from lit_uniopd.policy.chat_template import EncodedPrompt
from lit_uniopd.sampling.weight_probe import WeightProbe, _student_logps

PROMPT = EncodedPrompt([5, 6, 7, 8, 9])


def student_logps(model):
    return _student_logps(model, PROMPT, [1, 2, 3, 4])


@pytest.fixture
def model(model_dirs):
    return AutoModelForCausalLM.from_pretrained(model_dirs["student"], dtype=torch.float32).eval()


def shift(model, size):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * size)


def engine_of(model, noise):
    """The log-probs of now, off by rounding, for good."""
    logps = student_logps(model) + noise * torch.tensor([1.0, -1.0, 1.0, -1.0])
    return WeightProbe(lambda _: logps, "The engine", "sampling.colocate.max_drift")


@pytest.mark.parametrize(("noise", "size"), [(0.0, 1e-5), (1e-6, 1e-3), (2e-2, 1e-1)])
def test_an_engine_that_says_the_same_of_another_student_has_old_weights(model, noise, size):
    probe = engine_of(model, noise)
    probe.check(model, PROMPT, limit=None)
    shift(model, size)
    with pytest.raises(UserError, match=r"^The engine kept old weights: the student's log-probs have changed"):
        probe.check(model, PROMPT, limit=None)


def test_a_change_smaller_than_its_rounding_may_be_lost_in_it(model):
    """An adapter's first step, in an engine of 16 bits."""
    probe = engine_of(model, noise=2e-2)
    probe.check(model, PROMPT, limit=0.2)
    before = student_logps(model)
    shift(model, 1e-5)
    assert not torch.equal(student_logps(model), before)
    probe.check(model, PROMPT, limit=0.2)


def test_an_engine_that_is_far_off_is_named_with_the_limit(model):
    with pytest.raises(
        UserError, match=r"^The engine is 0\.30 nats from .* more than sampling\.colocate\.max_drift 0\.2:"
    ):
        engine_of(model, noise=0.3).check(model, PROMPT, limit=0.2)


def test_one_token_says_nothing(model):
    probe = engine_of(model, noise=9.0)
    probe.check(model, EncodedPrompt([5]), limit=0.2)
    with pytest.raises(UserError, match="nats from the student"):
        probe.check(model, PROMPT, limit=0.2)  # the next prompt is taken instead
