"""The desk benchmark: a real language model on plain English whose truth is known, for several seeds.

    python benchmarks/desk.py                      # seeds 0 1 2, recipes/desk.yaml
    python benchmarks/desk.py --seeds 0 --set experts.layers=[last] --out last.json
    python benchmarks/desk.py --merge seed0.json seed1.json seed2.json         # runs that were made in parallel

Prints a table and writes benchmarks/results/desk.json: {"runs": [metrics of each seed], "machine": ..., ...}.
"""

from __future__ import annotations

from world import compare_seeds

if __name__ == "__main__":
    compare_seeds(str(__doc__), recipe="desk", generator="desk")
