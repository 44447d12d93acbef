"""Rivals that are fitted to the scores of other systems: ensembles, directions and length calibrations, in a folder."""
