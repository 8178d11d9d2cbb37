"""Codes and what is computed from them: statistics, priors, directions. Tensors alone."""
