"""From a trained agent to a model bundle and back; what is exported is compared with torch before it is written."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fosp_core import task
from fosp_core.bundle import GRAPHS, WEIGHTS, Bundle, Manifest, SelectorSettings, Thresholds, load_bundle, write_bundle
from fosp_core.runtime import PolicyRuntime
from fosp_trainer import config as configuration
from fosp_trainer.agent import Agent
from fosp_trainer.data import Frames
from fosp_trainer.errors import UserError
from fosp_trainer.table import GOAL_CELLS, unflatten
from fosp_trainer.world_model import State, categorical_kl, table_length

TOLERANCE: Final = 1e-4
OPSET: Final = 18
PARITY_EPISODES: Final = 2


class PolicyStep(nn.Module):
    """One frame: the posterior's mode, both candidates and what the critics say of each one's own action."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def forward(
        self, image: Tensor, proprio: Tensor, deter: Tensor, stoch: Tensor, previous_action: Tensor, is_first: Tensor
    ) -> tuple[Tensor, ...]:
        """As ``fosp_core.runtime.PolicyRuntime`` names inputs and outputs; batch 1. ``deter`` ends with the table."""
        agent, model, rssm = self.agent, self.agent.world_model, self.agent.world_model.rssm
        keep = (1.0 - is_first)[:, None]
        deter, table = split_deter(agent, deter)
        seen, tables, _ = model.look(image[:, None], is_first[:, None], table)
        action_in = rssm.action_in(previous_action * keep)
        next_deter = rssm.recur(deter * keep, stoch * keep, action_in)
        log_q = rssm.posterior(next_deter, rssm.embed_in(model.embed(seen[:, 0], tables[:, 0], proprio)))
        next_stoch = rssm.sample(log_q, None)
        surprise = categorical_kl(log_q, rssm.log_probabilities(rssm.prior(next_deter)))
        features = agent.features(State(next_deter, next_stoch, tables[:, 0]), proprio)
        next_deter = torch.cat([next_deter, tables[:, 0]], -1)
        means = (agent.offline(features), agent.online(features))
        candidates = torch.cat([agent.constrained(features, mean) for mean in means])  # (2, A)
        q_reward, q_cost, violation = action_values(agent, features, candidates)
        return (
            next_deter, next_stoch, candidates[None], q_reward[None], q_cost[None], violation[None],
            agent.reach.probability(features), surprise,
        )  # fmt: skip


def split_deter(agent: Agent, deter: Tensor) -> tuple[Tensor, Tensor]:
    """Deterministic state (N, D) and table (N, M) of what a bundle keeps as one."""
    model = agent.config.world_model
    parts = deter.split([model.deter, table_length(model)], -1)
    return parts[0], parts[1]


class Judge(nn.Module):
    """Any actions in one state: their values and p(s) along imagined steps, the first by the action, the rest by
    pi_off.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, deter: Tensor, stoch: Tensor, proprio: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """(1, D), (1, Z), (1, P) metres, (N, A) to Q_r, Q_c, p(s, a) (N,) and p after 1..H steps (N, H)."""
        agent, model = self.agent, self.agent.world_model
        deter, table = split_deter(agent, deter)
        features = agent.features(State(deter, stoch, table), proprio)
        q_reward, q_cost, violation = action_values(agent, features, actions)
        ones = torch.ones_like(actions[:, :1])
        # one table for all: imagined steps do not change it
        state, action = State(ones * deter, ones * stoch, table), actions
        ahead = []
        for step in range(agent.config.lookahead):
            state = model.rssm.imagine_step(state, action)
            seen = model.features(state, model.proprio_head(state.flat()))
            ahead.append(agent.reach.probability(seen))
            if step + 1 < agent.config.lookahead:
                action = agent.offline(seen)
        return q_reward, q_cost, violation, torch.stack(ahead, -1)


def action_values(agent: Agent, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q_r, Q_c and p(s, a) (N,) of actions (N, A) in one state, features (1, F)."""
    repeated = torch.ones_like(actions[:, :1]) * features
    return (
        agent.critics.reward.value_of(repeated, actions),
        agent.critics.cost.value_of(repeated, actions),
        agent.reach.probability(repeated, actions),
    )


STEP_INPUTS: Final = ("image", "proprio", "deter", "stoch", "previous_action", "is_first")
STEP_OUTPUTS: Final = (
    "next_deter", "next_stoch", "candidate_actions", "q_reward", "q_cost", "violation_probability",
    "state_violation_probability", "surprise",
)  # fmt: skip
JUDGE_INPUTS: Final = ("deter", "stoch", "proprio", "actions")
JUDGE_OUTPUTS: Final = ("q_reward", "q_cost", "violation_probability", "lookahead")


def write_graphs(agent: Agent, folder: Path) -> None:
    """Write ``policy_step.onnx`` and ``judge.onnx``."""
    space, model = agent.config.space, agent.config.world_model
    size = space.image_size
    deter, stoch = torch.zeros(1, model.deter + table_length(model)), torch.zeros(1, model.latent)
    proprio = torch.zeros(1, space.proprio)
    step = (
        torch.zeros(1, size, size, space.channels, dtype=torch.uint8), proprio, deter, stoch,
        torch.zeros(1, space.action), torch.zeros(1),
    )  # fmt: skip
    _write_graph(PolicyStep(agent), step, folder / GRAPHS[0], STEP_INPUTS, STEP_OUTPUTS, {})
    shapes = {"actions": {0: "n"}, **{name: {0: "n"} for name in JUDGE_OUTPUTS}}
    judged = (deter, stoch, proprio, torch.zeros(3, space.action))
    _write_graph(Judge(agent), judged, folder / GRAPHS[1], JUDGE_INPUTS, JUDGE_OUTPUTS, shapes)


def _write_graph(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    path: Path,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    dynamic: dict[str, dict[int, str]],
) -> None:
    import onnx

    module.eval()
    with torch.no_grad(), warnings.catch_warnings():
        # shapes and constants become part of the graph on purpose
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.onnx.export(
            module, arguments, str(path), input_names=list(inputs), output_names=list(outputs),
            dynamic_axes=dynamic, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    onnx.checker.check_model(str(path))


@torch.no_grad()
def parity_error(agent: Agent, bundle: Bundle, frames: Frames, episodes: int = PARITY_EPISODES) -> float:
    """Largest difference between torch and ONNX Runtime over whole episodes back to back, resets included; relative
    for values above 1.

    Two choices may fall either way by float precision: which of equally likely classes is the mode, and whether a cell
    at the edge of the goal is an end of ways. From such a frame on the two states differ by right, so torch continues
    from the state that ONNX Runtime chose.
    """
    runtime = PolicyRuntime(bundle)
    step, judge = PolicyStep(agent).eval(), Judge(agent).eval()
    model = agent.config.world_model
    worst = 0.0
    deter, stoch = torch.zeros(1, model.deter + table_length(model)), torch.zeros(1, model.latent)
    by_length = np.argsort(-frames.lengths, kind="stable")
    # the longest, in which an error may grow, then short ones behind it
    chosen = [by_length[0], *by_length[::-1][: episodes - 1]]
    for episode in dict.fromkeys(map(int, chosen)):
        begin = int(frames.starts[episode])
        for i in range(begin, begin + int(frames.lengths[episode])):
            first = i == begin
            previous = np.zeros(agent.config.space.action, np.float32) if first else frames.action[i - 1]
            out = runtime.step(frames.image[i], frames.proprio[i], previous, first)
            expected = step(
                torch.from_numpy(frames.image[i])[None], torch.from_numpy(frames.proprio[i])[None], deter, stoch,
                torch.from_numpy(previous)[None], torch.tensor([float(first)]),
            )  # fmt: skip
            found_deter, found_stoch = (torch.from_numpy(x)[None] for x in runtime.state)
            error, edge = state_error(agent, found_deter, expected[0])
            worst = max(worst, error)
            deter, stoch = found_deter, found_stoch
            if edge or not torch.equal(found_stoch, expected[1]):
                continue
            answers = (
                out.candidate_actions, out.q_reward, out.q_cost, out.violation_probability,
                np.float32(out.state_violation_probability), np.float32(out.surprise),
            )  # fmt: skip
            for answer, tensor in zip(answers, expected[2:], strict=True):
                worst = max(worst, _difference(torch.as_tensor(answer), tensor))
            judged = runtime.judge(frames.action[i : i + 1])
            wanted = judge(
                deter, stoch, torch.from_numpy(frames.proprio[i])[None], torch.from_numpy(frames.action[i : i + 1])
            )
            values: list[NDArray[Any]] = [judged.q_reward, judged.q_cost, judged.violation_probability]
            for value, tensor in zip(values, wanted[:3], strict=True):
                worst = max(worst, _difference(torch.as_tensor(value), tensor))
    return worst


def state_error(agent: Agent, found: Tensor, expected: Tensor) -> tuple[float, bool]:
    """Difference of deterministic states (1, D + M), and whether only a cell at the edge of the goal tells their ways
    apart: the more cells are ends, the shorter are all ways, so that the found ones must lie between those of a goal a
    hair smaller and a hair larger.
    """
    (deter, flat), (wanted, wanted_flat) = split_deter(agent, found), split_deter(agent, expected)
    error = _difference(deter, wanted)
    if agent.world_model.reader is None:
        return error, False
    known, true = unflatten(flat), unflatten(wanted_flat)
    for name in ("cover", "goal", "near", "place"):
        error = max(error, _difference(getattr(known, name), getattr(true, name)))
    way = _difference(known.way, true.way)
    if way <= TOLERANCE:
        return max(error, way), False
    geometry = agent.world_model.geometry
    _, levels = geometry.clearance(torch.sigmoid(true.cover))
    longest, shortest = (geometry.way(levels, true.place, GOAL_CELLS + hair) for hair in (-TOLERANCE, TOLERANCE))
    return max(error, _difference(known.way.clamp(shortest, longest), known.way)), True


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference; relative where values are larger than 1 (lengths of ways are up to 200)."""
    x, y = a.float().flatten(), b.float().flatten()
    return float(((x - y).abs() / y.abs().clamp_min(1.0)).max())


def export_bundle(
    agent: Agent,
    folder: Path | str,
    *,
    bundle_id: str,
    frames: Frames | None,
    thresholds: Thresholds,
    selector: SelectorSettings | None = None,
    provenance: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
) -> Bundle:
    """Write a bundle under ``folder`` after comparing ONNX Runtime with torch on episodes of ``frames``.

    ``frames`` None leaves the comparison out, for bundles that are used once, in simulation.

    Raises:
        UserError: the two differ by more than ``TOLERANCE``; nothing is written then.
    """
    agent.eval()
    config = agent.config
    manifest = Manifest(
        id=bundle_id,
        deter_size=config.world_model.deter + table_length(config.world_model),
        stoch_size=config.world_model.latent,
        lookahead_steps=config.lookahead,
        thresholds=thresholds,
        selector=selector or SelectorSettings(),
        image_size=config.space.image_size,
        provenance=dict(provenance or {}),
        evaluation=dict(evaluation or {}),
    )
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        write_graphs(agent, work)
        kept = {name: value for name, value in agent.state_dict().items() if _source(name) == name}
        weights = {k: v.detach().contiguous().cpu().clone() for k, v in kept.items()}
        save_file(weights, work / WEIGHTS, metadata={"config": json.dumps(configuration.to_dict(config))})
        files = {name: work / name for name in (*GRAPHS, WEIGHTS)}
        if frames is not None:
            error = parity_error(agent, write_bundle(work / "bundle", manifest, files), frames)
            if not error <= TOLERANCE:
                raise UserError(f"{folder}: ONNX Runtime and torch differ by {error:.1e} (allowed {TOLERANCE:.0e})")
        return write_bundle(folder, manifest, files)


def _source(name: str) -> str:
    """The weight from which the weight ``name`` starts when a bundle is trained further: slow copies follow the fast
    ones, and cloning starts from pi_off. A bundle does not hold what starts from something else.
    """
    return name.replace(".slow_", ".").replace("reach.net.", "reach.state_net.").replace("behaviour.", "offline.")


def load_agent(bundle: Bundle | Path | str) -> Agent:
    """The agent of a bundle, with its configuration; raises ``UserError`` or ``fosp_core.bundle.BundleError``."""
    source = bundle if isinstance(bundle, Bundle) else load_bundle(bundle, task=task.TASK)
    try:
        with safe_open(str(source.weights), framework="pt") as stream:
            metadata = stream.metadata() or {}
        config: configuration.Config = configuration.from_dict(json.loads(metadata["config"]))
        weights = load_file(source.weights)
    except KeyError as error:
        raise UserError(f"{source.weights}: holds no configuration; the bundle cannot be trained further") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{source.weights}: unreadable: {error}") from error
    agent = Agent(config)
    complete = {name: weights[_source(name)] for name in agent.state_dict() if _source(name) in weights}
    missing = agent.load_weights({**weights, **complete}, str(source.weights))
    if missing:
        raise UserError(f"{source.weights}: holds no weights of {', '.join(missing)}")
    agent.freeze_offline()
    return agent
