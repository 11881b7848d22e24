"""``fosp-train refit``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from fosp_trainer.config import RefitConfig
from fosp_trainer.errors import UserError


@dataclass
class Refit:
    """Refit a bundle's reachability estimate on its own episodes in simulation. The policy stays, to the last bit; the
    new bundle is to be calibrated next.
    """

    bundle: Path
    """Folder of the bundle."""
    data: tuple[str, ...]
    """Minari datasets that it was trained on, of which some episodes are mixed in."""
    output: Path
    """Folder of the new bundle; must not exist. Its last part is the model's id."""
    seed: int = 0
    """Of the layouts and the batches."""
    json: Path | None = None
    """File for the rates of the own episodes and the losses."""
    workers: int = 2
    """Processes that run episodes."""
    quiet: bool = False
    """No progress."""
    config: Annotated[RefitConfig, tyro.conf.arg(name="")] = field(default_factory=RefitConfig)


def run(command: Refit) -> None:
    """Run the episodes, train, write the bundle and the file."""
    from fosp_core.bundle import BundleError, load_bundle
    from fosp_trainer.data import concatenate, from_episodes, read_dataset, split
    from fosp_trainer.export import export_bundle, load_agent
    from fosp_trainer.progress import bar, console
    from fosp_trainer.provenance import provenance, write_result
    from fosp_trainer.refit import own_episodes, refit

    if command.output.exists():
        raise UserError(f"{command.output} exists already; choose another --output")
    config = command.config
    try:
        source = load_bundle(command.bundle)
        agent = load_agent(source)
    except BundleError as error:
        raise UserError(str(error)) from error
    per_source = -(-config.replay // len(command.data))
    old, held_out = split(
        concatenate([read_dataset(name, per_source, command.seed) for name in command.data]),
        agent.config.data.held_out,
    )
    episodes, rates = own_episodes(str(command.bundle), config, command.seed, command.workers, command.quiet)
    own = from_episodes(episodes)
    with bar("refit", config.steps, quiet=command.quiet) as shown:
        losses = refit(
            agent, own, old, config, command.seed,
            lambda step, found: shown.advance(1, f"state {found['state']:.3f} action {found['action']:.3f}"),
        )  # fmt: skip
    figures = {"parent": source.id, "own_episodes": rates, "losses": losses, "data": own.fingerprint()}
    export_bundle(
        agent, command.output, bundle_id=command.output.name, frames=held_out, thresholds=source.manifest.thresholds,
        selector=source.manifest.selector,
        provenance={**source.manifest.provenance, "refit": provenance(parent=source.id, data=own.fingerprint())},
    )  # fmt: skip
    if command.json is not None:
        write_result(command.json, {"model_id": command.output.name, "seed": command.seed, **figures})
    if not command.quiet:
        for kind, rate in rates.items():
            console.print(f"{kind}: {rate['violation_rate']:.1%} of {rate['episodes']} violated")
        console.print(
            f"wrote {command.output}, with the thresholds of {source.id}, which say nothing of it; "
            f"go on with: fosp-train calibrate --bundle {command.output}",
            soft_wrap=True,
        )
