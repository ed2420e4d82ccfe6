"""Records as text, pandas frames and Markdown."""
