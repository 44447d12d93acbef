"""The benchmarks of reward models, one file each: their rows, their rules for ties and their official figures."""
