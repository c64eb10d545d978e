"""What an image is, where it comes from, and what is known of it."""
