"""SimCLR: model, loss, data, training, evaluation. The report around it is the package labreport."""
