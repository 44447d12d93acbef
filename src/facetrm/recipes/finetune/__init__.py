"""Fine-tuning runs: settings, fit, figures."""
