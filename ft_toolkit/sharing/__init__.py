"""A finished run → the Hub: what may leave the machine, the card that explains it, and the way there and back."""
