"""A finished run → the Hub: what may leave the machine, the card, and the way there and back."""
