"""The training objective and the loop around it."""
