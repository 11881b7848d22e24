"""What the nodes share: QoS profiles, names, parameters, image messages, diagnostics."""
