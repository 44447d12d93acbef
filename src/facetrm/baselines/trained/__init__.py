"""Rivals that are trained: a Bradley-Terry model, a pairwise model and the implicit reward of a policy."""
