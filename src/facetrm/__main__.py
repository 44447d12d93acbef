"""``python -m facetrm``: the command line, for launchers of modules (``accelerate launch -m facetrm run ...``)."""

from facetrm.cli import start

if __name__ == "__main__":
    start()
