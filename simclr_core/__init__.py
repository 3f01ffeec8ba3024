"""SimCLR: views, model, loss, training, evaluation; data and scale beside them."""
