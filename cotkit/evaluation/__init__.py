"Predictions, statistics and what they say"
