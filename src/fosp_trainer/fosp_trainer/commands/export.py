"""``fosp-train export``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fosp_trainer.errors import UserError


@dataclass
class Export:
    """Write a run's newest checkpoint as a model bundle, after comparing ONNX Runtime with torch."""

    run: Path
    """Run folder of ``fosp-train pretrain``."""
    data: tuple[str, ...]
    """The run's Minari datasets; their held-out episodes give thresholds and the comparison."""
    output: Path
    """Folder of the bundle, for example models/safereach/NAME; its last part is the model's id."""
    proposals: int = 1
    """Constrained proposals around each actor's mean; 1 is the actor alone."""
    mode: Literal["greedy", "sample", "offline", "online"] = "greedy"
    """Selection that the bundle asks for."""


def run(command: Export) -> None:
    """Load, take thresholds, export."""
    import torch

    from fosp_core.bundle import BundleError, SelectorSettings
    from fosp_trainer.data import concatenate, read_dataset, split
    from fosp_trainer.export import export_bundle
    from fosp_trainer.pretrain import Latents
    from fosp_trainer.progress import console
    from fosp_trainer.provenance import provenance
    from fosp_trainer.runs import load_run
    from fosp_trainer.thresholds import provisional_thresholds

    agent, saved = load_run(command.run, command.proposals)
    config = agent.config
    _, held_out = split(concatenate([read_dataset(source) for source in command.data]), config.data.held_out)
    latents = Latents(agent, held_out, (False,))
    with torch.no_grad():
        batch = latents.batch(latents.sources)
        risk = agent.reach.probability(batch.features, batch.action)[batch.good > 0].numpy()
    thresholds = provisional_thresholds(risk, latents.surprise.numpy(), held_out.fingerprint())
    training = json.loads((command.run / "provenance.json").read_text())
    origin = provenance(training=training, training_s=saved.state["duration_s"], data=saved.state["data"])
    try:
        bundle = export_bundle(
            agent, command.output, bundle_id=command.output.name, frames=held_out, thresholds=thresholds,
            selector=SelectorSettings(mode=command.mode), provenance=origin,
        )  # fmt: skip
    except (BundleError, ValueError) as error:
        raise UserError(str(error)) from error
    console.print(
        f"wrote {bundle.path}: caution {thresholds.caution:.2f}, halt {thresholds.halt:.2f}, "
        f"surprise {thresholds.surprise:.1f} nats"
    )
