"""Learning: world model, in-sample critics, reachability, actors; pretraining, online rounds, export, evaluation."""
