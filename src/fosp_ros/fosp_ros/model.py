"""Parameters and loading of the model that a node runs."""

from __future__ import annotations

from pathlib import Path

from fosp_core.bundle import load_bundle, newest, resolve
from fosp_core.runtime import PolicyRuntime
from fosp_ros.errors import ConfigurationError
from fosp_ros.parameters import Parameter, Parameters

MODEL_PARAMETERS = (
    Parameter("models_root", "models", "Folder of the model bundles.", read_only=True),
    Parameter("bundle", "", "Bundle, relative to models_root; empty: the newest.", read_only=True),
    Parameter(
        "provider", "", "ONNX Runtime provider that must be used; empty: CUDA where present, else CPU.", read_only=True
    ),
)


def open_model(parameters: Parameters, relative: str) -> PolicyRuntime:
    """Load a bundle (the newest one when ``relative`` is empty) and run it once.

    Raises:
        BundleError: names the file and what is wrong with it.
        ConfigurationError: the provider is not available.
    """
    root = Path(parameters.string("models_root"))
    path = resolve(root, relative) if relative else newest(root)
    provider = parameters.string("provider")
    try:
        runtime = PolicyRuntime(load_bundle(path), [provider] if provider else None, threads=1)
    except ValueError as error:
        raise ConfigurationError(f"parameter 'provider': {error}") from error
    runtime.warm_up()
    return runtime
