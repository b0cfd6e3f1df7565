"""What does a source say, token by token? Read once, coded, kept and checked."""
