"""Qwen2 on Megatron through NeMo: the only folder, with training/, that meets NeMo."""
