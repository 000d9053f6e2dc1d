"""Views of a study as plain numbers and words, which notebook, still pictures and side panel draw."""
