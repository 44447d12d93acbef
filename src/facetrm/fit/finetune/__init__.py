"""Fine-tuning of a trunk together with its heads."""
