"""GGUF files as backbones: read, checked, dequantised once into a folder of safetensors."""
