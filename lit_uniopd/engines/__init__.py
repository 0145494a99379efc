"""Who writes the rollouts beside our own loop: each module has a ``write(run)`` that fills in the rows of a ``Run``."""
