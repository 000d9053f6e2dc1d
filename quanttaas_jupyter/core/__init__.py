"""Types and rules that every other package uses: recipe, configuration, study state, technique catalogue, errors."""
