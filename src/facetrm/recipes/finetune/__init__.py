"""Fine-tuning runs: settings, fit and figures."""
