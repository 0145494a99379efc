"""Published results that one to eight GPUs can be held against (docs/reproduce.md): their rows, and the comparison."""
