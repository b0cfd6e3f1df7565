"""What is there to read? Documents, where they come from, on which side of the split each is."""
