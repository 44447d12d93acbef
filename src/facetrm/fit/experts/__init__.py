"""Experts with adapters of their own, and the network on their vectors."""
