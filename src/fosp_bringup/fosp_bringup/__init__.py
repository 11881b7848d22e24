"""The whole graph: node list, parameters, launch files, embedded runner, demo."""
