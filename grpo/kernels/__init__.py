"""The arithmetic of the hot path, each piece beside the plain reference that states what it computes."""
