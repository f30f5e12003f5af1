"""Training by plain function calls: nothing here knows of Flower, workers or networks."""
