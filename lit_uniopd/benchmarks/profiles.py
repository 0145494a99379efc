"""Profiles: how much of a benchmark a run takes. A profile's name is written into every record and tag."""

from dataclasses import dataclass, replace

from lit_uniopd.benchmarks.spec import Generation, ProfileName


@dataclass(frozen=True, slots=True)
class Profile:
    """Limits that a profile puts on a spec."""

    rows: int | None
    """Number of groups of rows, the first by the hash of their names. None: all."""
    whole_below: int
    """Sets of at most this many groups are used whole."""
    answers: int | None
    """Largest number of answers to a row. None: the spec's."""
    tokens: int | None
    """Longest answer. None: the spec's."""

    def limit(self, generation: Generation) -> Generation:
        """The decoding settings under this profile."""
        return replace(
            generation,
            n=min(generation.n, self.answers or generation.n),
            max_new_tokens=min(generation.max_new_tokens, self.tokens or generation.max_new_tokens),
        )


PROFILES: dict[ProfileName, Profile] = {
    "fixture": Profile(rows=None, whole_below=0, answers=1, tokens=64),
    "smoke": Profile(rows=16, whole_below=16, answers=1, tokens=512),
    "curve": Profile(rows=200, whole_below=400, answers=4, tokens=4096),
    "paper": Profile(rows=None, whole_below=0, answers=None, tokens=None),
}
"""fixture: a few bundled rows, for tests. smoke: does it run. curve: validation while training. paper: everything."""
