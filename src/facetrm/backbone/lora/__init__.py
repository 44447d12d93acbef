"""LoRA adapters on a shared trunk: creating, loading, switching and layer sharing."""
