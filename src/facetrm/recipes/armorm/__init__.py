"""ArmoRM runs: settings, rows, fit, judgement, figures."""
