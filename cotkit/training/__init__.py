"Examples to batches, losses, the trainer and the recipes"
