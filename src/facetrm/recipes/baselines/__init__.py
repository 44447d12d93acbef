"""Recipes of rivals, trained (Bradley-Terry, pairwise, DPO) or fitted (ensemble, direction, length calibration)."""
