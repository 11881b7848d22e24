"""Videos of recorded episodes, from the overview camera, with what the policy and the monitor thought.

``python -m fosp_bringup.video --run runs/latest --output picture.gif`` makes a picture of a run for a page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import tyro
from numpy.typing import NDArray

from fosp_bringup.summary import Episode, load_episodes
from fosp_core.task import CONTROL_HZ
from fosp_episodes.mcap_log import read_mcap
from fosp_episodes.storage import FRAMES_FILE, MESSAGES_FILE
from fosp_ros import names

Image = NDArray[np.uint8]

WIDTH: Final = 640
_BAR: Final = 44
_STATE_COLORS: Final = {"nominal": (42, 157, 111), "caution": (224, 159, 31), "halted": (209, 73, 91)}
_HOLD_LAST: Final = 8
"""Frames that the end of an episode stays on the screen."""


class VideoError(Exception):
    """There is no video; the message says why."""


def choose(episodes: Sequence[Episode]) -> list[Episode]:
    """Two episodes worth watching: a safe one, and one with a violation or a halt if there is any."""
    complete = [e for e in episodes if not e.summary.aborted]
    safe = [e for e in complete if e.outcome == "safe success"]
    wrong = [e for e in complete if e.outcome in ("violation", "halted")] or [
        e for e in complete if e.outcome != "safe success"
    ]
    # The longest safe one has most to show: a way around an obstacle.
    safe.sort(key=lambda e: -e.summary.steps)
    picked = [*safe[:1], *wrong[:1]]
    picked += [e for e in [*safe, *wrong] if e not in picked]
    return picked[:2]


def encode(episode: Episode) -> bytes:
    """H.264 in MP4, 10 frames a second; raises ``VideoError``."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise VideoError("install imageio-ffmpeg for videos") from error
    frames = pictures(episode)
    height, width = frames[0].shape[:2]
    target = episode.folder / f".video-{episode.summary.episode_id}.mp4"
    try:
        writer = imageio_ffmpeg.write_frames(
            str(target),
            (width, height),
            fps=CONTROL_HZ,
            codec="libx264",
            macro_block_size=2,
            quality=None,
            output_params=["-crf", "24", "-preset", "fast", "-movflags", "+faststart"],
        )
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
        writer.close()
        return target.read_bytes()
    except OSError as error:
        raise VideoError(f"the video could not be made: {error}") from error
    finally:
        target.unlink(missing_ok=True)


def pictures(episode: Episode) -> list[Image]:
    """Every annotated frame, the last one held; raises ``VideoError`` when there are none."""
    frames = [annotated(image, step, episode) for image, step in _frames(episode)]
    if not frames:
        raise VideoError("no camera images were recorded")
    return frames + frames[-1:] * _HOLD_LAST


def animate(episodes: Sequence[Episode], path: Path, width: int = 400) -> None:
    """Write episodes one after the other as a GIF; raises ``VideoError``."""
    from PIL import Image as Picture

    frames = [Picture.fromarray(frame) for episode in episodes for frame in pictures(episode)]
    if not frames:
        raise VideoError("no episodes to show")
    smaller = [frame.resize((width, round(frame.height * width / frame.width))).quantize(64) for frame in frames]
    path.parent.mkdir(parents=True, exist_ok=True)
    smaller[0].save(path, save_all=True, append_images=smaller[1:], duration=round(1000 / CONTROL_HZ), loop=0)


def annotated(image: Image, step: dict[str, Any], episode: Episode) -> Image:
    """The image with a line of figures above it and a frame in the colour of the monitor's state."""
    height = round(image.shape[0] * WIDTH / image.shape[1] / 2) * 2
    canvas = np.full((height + _BAR, WIDTH, 3), 24, np.uint8)
    canvas[_BAR:] = cv2.resize(image, (WIDTH, height), interpolation=cv2.INTER_CUBIC)
    safety = step["safety"]
    state = safety["state"] if safety else ""
    if step["cost"] or any(s["cost"] for s in episode.steps[: step["step"] + 1]):
        state_text, color = f"violation: {step['cost_reason']}" if step["cost"] else "violated", _STATE_COLORS["halted"]
    else:
        state_text, color = state, _STATE_COLORS.get(state, (120, 130, 145))
    if state in _STATE_COLORS and state != "nominal":
        cv2.rectangle(canvas, (2, _BAR + 2), (WIDTH - 3, _BAR + height - 3), _STATE_COLORS[state], 4)
    risk = safety["violation_probability"] if safety else None
    chosen = step["decision"]["chosen"] if step["decision"] else ""
    distance = step["distance"]
    parts = (
        (14, f"step {step['step']:2d}", (235, 238, 242)),
        (112, "" if distance is None else f"{100 * distance:4.1f} cm to goal", (235, 238, 242)),
        (272, f"policy {chosen}" if chosen else "", (235, 238, 242)),
        (404, "" if risk is None else f"risk {risk:.2f}", (235, 238, 242)),
        (494, state_text, color),
    )
    for x, text, ink in parts:
        cv2.putText(canvas, text, (x, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.48, ink, 1, cv2.LINE_AA)
    return canvas


def _frames(episode: Episode) -> list[tuple[Image, dict[str, Any]]]:
    """Images of the overview camera, else of the policy's camera, each with its step."""
    steps = {step["stamp_ns"]: dict(step) for step in episode.steps}
    images: dict[int, Image] = {}
    log = episode.folder / MESSAGES_FILE
    if log.is_file():
        topic = f"{names.OVERVIEW_IMAGE}/compressed"
        for _, _, message in read_mcap(log, [topic]):
            stamp = message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec
            decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
            if decoded is not None:
                images[stamp] = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)
    pairs = []
    for stamp, image in sorted(images.items()):
        # The overview may be taken a moment before or after the policy's frame.
        nearest = min(steps, key=lambda s: abs(s - stamp), default=None)
        if nearest is not None and abs(nearest - stamp) <= 0.5e9 / CONTROL_HZ:
            pairs.append((image, steps[nearest]))
    if pairs:
        return pairs
    arrays = episode.folder / FRAMES_FILE
    if not arrays.is_file():
        return []
    with np.load(arrays, allow_pickle=False) as content:
        small = content["image"]
    ordered = list(steps.values())[-len(small) :]
    return [(np.asarray(image, np.uint8), step) for image, step in zip(small, ordered, strict=False)]


@dataclass
class Options:
    """Make a GIF of episodes of a run."""

    run: Path
    """Folder of a run, for example runs/latest."""
    output: Path
    """The GIF."""
    episodes: tuple[int, ...] = ()
    """Numbers of the episodes; by default the two worth watching."""
    width: int = 400
    """Width in pixels."""


def main() -> None:
    """Command line."""
    options = tyro.cli(Options)
    try:
        recorded = load_episodes(options.run)
        shown = [recorded[i] for i in options.episodes] if options.episodes else choose(recorded)
        animate(shown, options.output, options.width)
    except IndexError as error:
        raise SystemExit(f"video: {options.run} has {len(recorded)} episodes") from error
    except (VideoError, OSError) as error:
        raise SystemExit(f"video: {error}") from error
    print(f"written to {options.output}")


if __name__ == "__main__":
    main()
