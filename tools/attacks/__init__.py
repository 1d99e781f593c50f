"""Attacks on wmgym, a module for each thing attacked; ``tools.attack`` runs them."""
