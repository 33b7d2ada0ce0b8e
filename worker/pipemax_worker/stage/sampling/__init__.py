"""How the next token is chosen from logits: one concern a file; ``stage.sampler`` composes them."""
