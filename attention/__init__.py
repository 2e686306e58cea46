"""What attention knows: which words look where, and what frames may see of each other."""
