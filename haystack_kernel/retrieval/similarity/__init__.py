"""How similar two donors, cell types, perturbations or descriptions are."""
