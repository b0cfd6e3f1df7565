"""How does what a source said become a word on the target's tokens? One method a file."""
