"""Recipes of rivals that are trained: a Bradley-Terry model, a pairwise model, and a DPO policy."""
