"""Fit of the gate, its settings, and the best weights that do not depend on the prompt."""
