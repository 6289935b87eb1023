"""The components of the score, and the map from p values to scores."""
