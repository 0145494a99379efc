"""Learning from pairs: Omni-DPO, SENTINEL, their losses and the cache of the reference's log-probs."""
