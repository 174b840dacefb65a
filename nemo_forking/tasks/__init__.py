"""Tasks that the project generates itself."""
