"""LoRA adapters on a shared trunk: made, read, switched, packed."""
