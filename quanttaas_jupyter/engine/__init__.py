"""Engine: a resident process that claims studies, drives them and runs their stages. It imports nothing of Jupyter."""
