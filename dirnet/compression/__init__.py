"""From a trained model to a compressed one: groups, budget, factors, rebuilt layers, report."""
