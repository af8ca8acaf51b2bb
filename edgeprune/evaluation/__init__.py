"""What outputs mean, how good and how close they are, and what must hold before."""
