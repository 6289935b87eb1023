"""Ask a question of single cells, get a grounded prediction."""
