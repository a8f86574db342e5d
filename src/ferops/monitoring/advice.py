"""What a person is to do about a verdict: sentences chosen by what moved."""

from ferops.monitoring.alerts import ANSWERS, parts
from ferops.monitoring.verdict import Verdict

#: Columns that move together, by what moves them.
LIGHT = {"brightness", "contrast", "dark_fraction", "bright_fraction", "entropy"}
FOCUS = {"sharpness", "noise"}
CROP = {"symmetry"}
IMAGES = LIGHT | FOCUS | CROP


def advice(verdict: Verdict) -> tuple[str, ...]:
    """What to do, first things first; empty when there is nothing to do."""
    named = set(parts(verdict)) if verdict.verdict == "drift" else set()
    noticed = verdict.repeats.noticed if verdict.repeats else ()
    said = []
    if "images" in noticed:
        said.append(
            "Find out who sends images again and again: a test left running, a health check, a stuck camera. "
            "They count once, and change no other figure here."
        )
    if named and "client" in noticed:
        if verdict.without_largest == ():
            said.append("Look at the client that sends most: what moved is its camera alone.")
        elif verdict.without_largest is None:
            said.append("Look at the client that sends most first: what moved may be its camera alone.")
    if named & LIGHT:
        said.append(
            f"Look at the camera and the light: {_change(verdict)}exposure, gain, a lamp or the time of day, "
            "borders that are black or white."
        )
    if named & FOCUS:
        said.append(
            "Look at focus and compression: a dirty lens, motion, low light, stronger JPEG, faces that are "
            "enlarged from a few pixels."
        )
    if named & CROP:
        said.append(
            "Look at how faces are cut out: turned or tilted heads, cut-off faces, images that are none."
        )
    if named & {"embedding", "confidence"} and not named & IMAGES:
        said.append(
            "The images look as before, and the model sees them differently: other people, masks or glasses, "
            "another way to cut faces out, pictures of no face. Look at some pictures where they are made."
        )
    if named & ANSWERS and not named & IMAGES:
        said.append(
            "The mix of answers changed, and the images look as before: ask whether the occasion did. "
            "If not, the model errs in a new way, which labels show."
        )
    if "accuracy" in named:
        said.append("See below which emotions are missed: those are the faces to collect.")
    if named or (verdict.expected and verdict.expected.fell):
        said.append(
            "Collect labels for some of these images (POST /feedback, `ferops data collect --since` the "
            "drift): training again on the same data gives the same model."
        )
    if verdict.verdict == "too_few":
        said.append("See whether the service runs and is asked: `ferops status`, its /metrics, its clients.")
    return tuple(said)


def _change(verdict: Verdict) -> str:
    brightness = next((column for column in verdict.columns if column.name == "brightness"), None)
    if brightness is None or not brightness.drifted:
        return ""
    darker = brightness.current < brightness.reference  # type: ignore[operator]  # means, of a number
    return f"images are {'darker' if darker else 'brighter'}; "
