"""What the clips say."""
