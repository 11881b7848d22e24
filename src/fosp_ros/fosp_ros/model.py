"""Parameters and loading of the model that a node runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fosp_core.bundle import BundleError, load_bundle, newest, resolve
from fosp_core.runtime import PolicyRuntime
from fosp_interfaces.srv import LoadModel
from fosp_ros.errors import BUSY, ConfigurationError
from fosp_ros.lifecycle import ManagedNode
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


def answer_load(
    node: ManagedNode,
    parameters: Parameters,
    request: LoadModel.Request,
    response: LoadModel.Response,
    current: PolicyRuntime | None,
    busy: bool,
    use: Callable[[PolicyRuntime], None],
    check: Callable[[PolicyRuntime], None] = lambda _: None,
) -> LoadModel.Response:
    """Answer a request to change the model: load, check, and only then hand the new one to ``use``.

    Args:
        node: the node that was asked; must be configured.
        parameters: its parameters, with ``MODEL_PARAMETERS`` among them.
        request: which bundle.
        response: filled in and returned.
        current: the model in use, which stays when anything is wrong.
        busy: whether the node is not at rest.
        use: takes over the new model.
        check: raises ``ConfigurationError`` when this node must not use it.
    """
    response.model_id = current.bundle.id if current else ""
    if not node.is_configured:
        response.message = "refused: the node is not configured"
        return response
    if busy:
        response.message = f"refused: {BUSY}; models are changed at rest"
        return response
    try:
        runtime = open_model(parameters, request.bundle)
        check(runtime)
    except (BundleError, ConfigurationError) as error:
        response.message = f"refused: {error}"
        node.get_logger().error(f"model not loaded: {error}")
        return response
    use(runtime)
    response.success, response.message, response.model_id = True, "loaded", runtime.bundle.id
    return response
