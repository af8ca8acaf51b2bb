"""Numbers of a board without the board: arm64 in QEMU's user mode."""
