"""DMoERM runs: settings, rows, fit, judgement, figures."""
