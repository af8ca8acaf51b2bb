"""What edgeprune knows of boards: target files, read and checked."""
