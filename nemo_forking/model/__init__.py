"""Qwen2 on Megatron (gpt.py, layers.py, weights.py) and through NeMo (qwen2.py: with training/, all that meets it)."""
