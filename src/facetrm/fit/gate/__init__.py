"""The gate's fit, its settings, and the best weights that no prompt changes."""
