"""The SafeReach world in MuJoCo: gymnasium environment, data collection, simulation node."""
