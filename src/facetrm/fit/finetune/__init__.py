"""Trunk and heads trained together."""
