"""Planning: the search that proposes trials, and the plan that turns them into shared stages."""
