"""How often the trained model wins, and how far it moved: methods, win rate and KL."""
