"""Training by plain function calls: nothing here depends on Flower, workers or networks."""
