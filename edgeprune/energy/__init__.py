"""Energy per inference, from windows of work and readings of power."""
