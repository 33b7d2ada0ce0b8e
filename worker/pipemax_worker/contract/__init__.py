"""What processes and packages say to each other. Imports nothing of the house but ``errors``."""
