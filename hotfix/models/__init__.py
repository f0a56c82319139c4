"""Names to models, and models to hidden states and logits."""
