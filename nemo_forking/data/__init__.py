"""From raw traces to token ids: schema, prompts, preparation, and the global batch of a step."""
