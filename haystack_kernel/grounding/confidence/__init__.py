"""How far to trust a prediction: what the score itself does not say."""
