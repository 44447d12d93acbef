"""Rewards for trainers: one small file per trainer. None imports the trainer: what a trainer calls is handed to it."""
