"""What people see of a study, in plain numbers and words: the notebook, still pictures and the side panel draw it."""
