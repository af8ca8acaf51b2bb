"""What all parts stand on: files, progress, time, silence, derivatives."""
