"""What is one run? Its settings, what it needs prepared, the folder it lives in, and what is asked of it later."""
