"""What is one run? Its settings, what it needs prepared, and the folder it lives in."""
