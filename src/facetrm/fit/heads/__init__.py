"""Heads in closed form: ridge from streaming moments, and how well each objective is predicted."""
