"""What did a user type? How each command of ours starts, reads its words, sweeps, refuses, and leaves nothing behind."""
