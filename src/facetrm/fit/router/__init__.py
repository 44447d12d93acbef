"""The router's fit, its settings, rows and report."""
