"""ROS-free runtime of the FOSP stack: task constants, model bundle, latent filter, action selection, safety rules."""
