"""What all parts stand on: files, time, silence, derivatives."""
