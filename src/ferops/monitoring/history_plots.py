"""Plots of the history: verdicts, predictions, accuracy and the columns that mattered, over one axis of time.

Each is an SVG that stretches to the page's width, with `viewBox` 0 to `Axis.count` across and 0 to 100 down;
letters, which must not stretch, are the page's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ferops.monitoring.history import History, Judged

#: Points of a plot at most: 14 days of hours, with both ends.
BUCKETS = 337

#: Columns with a plot of their own: at most, and at least, however little they moved.
COLUMNS, COLUMNS_AT_LEAST = 6, 2

#: A column that came this near to its threshold mattered.
NEAR = 0.7

#: Where a column's plot is cut, in thresholds: one wild window must not flatten the others.
HIGHEST = 5.0

#: Share of the width that two labels of model versions are apart at least.
LABEL_WIDTH = 0.16

#: Height of a verdict in its strip: told apart without colours too.
HEIGHTS = {"healthy": 35, "too_few": 18, "drift": 100}

Values = NDArray[np.float64]  # one a bucket; NaN where there is none


@dataclass(frozen=True)
class Axis:
    """Time, cut into equal buckets.

    Attributes:
        start: of the first bucket.
        width: of each.
        count: how many.
    """

    start: datetime
    width: timedelta
    count: int

    @classmethod
    def of(cls, moments: Sequence[datetime]) -> "Axis":
        """From the first to the last of them (in order), a bucket for each while they are regular."""
        gaps = sorted(after - before for before, after in pairwise(moments))
        usual = gaps[len(gaps) // 2] if gaps else timedelta(hours=1)
        width = max(usual, (moments[-1] - moments[0]) / (BUCKETS - 1), timedelta(seconds=1))
        count = round((moments[-1] - moments[0]) / width) + 1
        return cls(moments[0] - width / 2, width, count)

    def bucket(self, moment: datetime) -> int:
        """The bucket that holds a moment, or is nearest to it."""
        return min(max(int((moment - self.start) / self.width), 0), self.count - 1)

    def percent(self, bucket: float) -> float:
        """Where a bucket's middle is, of the width."""
        return round(100 * (bucket + 0.5) / self.count, 1)

    def ticks(self) -> list[str]:
        """Start, middle and end, for people."""
        whole = self.width * self.count
        form = "%d %b %H:%M" if whole < timedelta(days=5) else "%d %b" if whole.days < 300 else "%b %Y"
        places = (0.5, self.count / 2, self.count - 0.5) if self.count > 2 else (0.5, self.count - 0.5)
        return [(self.start + place * self.width).astimezone(UTC).strftime(form) for place in places]


@dataclass(frozen=True)
class Mark:
    """Something written at a place of the axis: `left` in percent of the width."""

    left: float
    text: str
    title: str
    kind: str


@dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        name: of what it shows.
        note: figures beside the name.
        svg: inline.
        height: in pixels.
        above, below: what is written over and under it.
    """

    name: str
    note: str
    svg: str
    height: int
    above: Sequence[Mark] = field(default=())
    below: Sequence[Mark] = field(default=())


def plots(history: History, axis: Axis) -> tuple[list[Plot], list[Plot]]:
    """Verdicts, predictions and, where it is known or expected, accuracy; and the columns that mattered."""
    verdicts = history.verdicts
    changes = [after for before, after in pairwise(verdicts) if before.model_version != after.model_version]
    lines = "".join(f"M{axis.bucket(change.moment)} 0V100" for change in changes)
    versions = f'<path class="version" d="{lines}"/>' if lines else ""
    wide = [_strip(history, axis, versions, changes), _predictions(verdicts, axis, versions)]
    if any(verdict.reference_accuracy is not None for verdict in verdicts):
        wide.append(_accuracy(verdicts, axis, versions))
    return wide, [_column(name, verdicts, axis, versions) for name in mattered(verdicts)]


def mattered(verdicts: Sequence[Judged]) -> list[str]:
    """The columns to plot: those that drifted, most often first, then those that came near to it."""
    drifted: dict[str, int] = {}
    most: dict[str, float] = {}
    for verdict in verdicts:
        for part in verdict.parts:
            drifted[part] = drifted.get(part, 0) + 1
        for name, size in verdict.moved.items():
            most[name] = max(most.get(name, 0.0), size)
    ranked = sorted(most, key=lambda name: (drifted.get(name, 0), most[name]), reverse=True)
    count = sum(name in drifted or most[name] >= NEAR for name in ranked)
    return ranked[: min(max(count, COLUMNS_AT_LEAST), COLUMNS)]


def _strip(history: History, axis: Axis, versions: str, changes: Sequence[Judged]) -> Plot:
    order = list(HEIGHTS)
    worst = np.full(axis.count, -1)
    for verdict in history.verdicts:
        bucket = axis.bucket(verdict.moment)
        worst[bucket] = max(worst[bucket], order.index(verdict.verdict))
    paths = "".join(
        f'<path class="{name}" d="{_area(np.where(worst == rank, float(height), np.nan))}"/>'
        for rank, (name, height) in enumerate(HEIGHTS.items())
        if (worst == rank).any()
    )
    counts = [sum(verdict.verdict == name for verdict in history.verdicts) for name in order]
    said = ", ".join(
        f"{count:,} {name.replace('_', ' ')}" for name, count in zip(order, counts, strict=True) if count
    )
    merged = axis.count < len(history.verdicts)
    note = f"{said}{'; a mark is the worst of the windows that it stands for' if merged else ''}"
    above, right = [], -1.0
    for verdict in [history.verdicts[0], *changes]:
        left = axis.percent(axis.bucket(verdict.moment) - 0.5)
        if left >= right:
            short = verdict.model_version.rpartition("-")[0] or verdict.model_version
            title = f"{verdict.model_version}, first judged {verdict.time}"
            above.append(Mark(min(left, 100 * (1 - LABEL_WIDTH)), short, title, "version"))
            right = left + 100 * LABEL_WIDTH
    return Plot("Verdicts", note, _svg(axis, paths + versions), 44, above, _alerts(history, axis))


def _alerts(history: History, axis: Axis) -> list[Mark]:
    """One mark a bucket: what was told in it, or that it is over."""
    marks: dict[int, Mark] = {}
    for alert in history.alerts:
        bucket = axis.bucket(alert.moment)
        over = alert.status == "recovered"
        title = f"{alert.time} {alert.kind.replace('_', ' ')} {alert.status}: {', '.join(alert.parts)}"
        before = marks.get(bucket)
        if before:
            title, over = f"{before.title}\n{title}", over and before.kind == "over"
        marks[bucket] = Mark(axis.percent(bucket), "▽" if over else "▲", title, "over" if over else "alert")
    return list(marks.values())


def _predictions(verdicts: Sequence[Judged], axis: Axis, versions: str) -> Plot:
    rows = _last(verdicts, axis, lambda verdict: float(verdict.rows))
    top = max(float(np.nanmax(rows)), 1.0)
    note = f"last {verdicts[-1].rows:,}, most {max(verdict.rows for verdict in verdicts):,}"
    svg = _svg(axis, f'<path class="rows" d="{_area(95 * rows / top)}"/>{versions}')
    return Plot("Predictions in the window", note, svg, 44)


def _accuracy(verdicts: Sequence[Judged], axis: Axis, versions: str) -> Plot:
    accuracy = _last(verdicts, axis, lambda verdict: verdict.accuracy)
    low = _last(verdicts, axis, lambda verdict: verdict.interval[0] if verdict.interval else None)
    high = _last(verdicts, axis, lambda verdict: verdict.interval[1] if verdict.interval else None)
    expected = _last(verdicts, axis, lambda verdict: verdict.expected)
    reference = _last(verdicts, axis, lambda verdict: verdict.reference_accuracy)
    svg = _svg(
        axis,
        f'<path class="band" d="{_area(100 * high, 100 * low)}"/>'
        f'<path class="expected" d="{_line(100 * expected)}"/>'
        f'<path class="accuracy" d="{_line(100 * accuracy)}"/>'
        f'<path class="reference" d="{_line(100 * reference)}"/>{versions}',
    )
    notes = []
    if fed := [verdict for verdict in verdicts if verdict.accuracy is not None]:
        notes.append(f"line, with its interval: by feedback, last {_percent(fed[-1].accuracy)}")
    if estimated := [verdict for verdict in verdicts if verdict.expected is not None]:
        notes.append(f"dotted: expected from confidence, last {_percent(estimated[-1].expected)}")
    known = [verdict.reference_accuracy for verdict in verdicts if verdict.reference_accuracy is not None]
    notes.append(f"dashed: the reference, {_percent(known[-1])}")
    return Plot("Accuracy, 0 to 100 %", "; ".join(notes), svg, 70)


def _column(name: str, verdicts: Sequence[Judged], axis: Axis, versions: str) -> Plot:
    sizes = np.full(axis.count, np.nan)
    for verdict in verdicts:
        if name in verdict.moved:
            bucket = axis.bucket(verdict.moment)
            sizes[bucket] = np.fmax(sizes[bucket], verdict.moved[name])
    top = min(max(1.6, float(np.nanmax(sizes))), HIGHEST)
    scaled = np.minimum(95 * sizes / top, 100)  # NaN stays NaN
    limit = 95 / top
    over = np.where(scaled > limit, scaled, np.nan)
    svg = _svg(
        axis,
        f'<path class="size" d="{_area(np.minimum(scaled, limit))}"/>'
        f'<path class="over" d="{_area(over, np.full(axis.count, limit))}"/>'
        f'<path class="threshold" d="M0 {100 - limit:.1f}H{axis.count}"/>{versions}',
    )
    known = [verdict for verdict in verdicts if name in verdict.moved]
    most = max(known, key=lambda verdict: verdict.moved[name])
    note = f"last {known[-1].moved[name]:.1f}×, most {most.moved[name]:.1f}× on {most.moment:%d %b}"
    return Plot(name, note, svg, 60)


def _last(verdicts: Sequence[Judged], axis: Axis, value: Callable[[Judged], float | None]) -> Values:
    """The last known value in each bucket."""
    values = np.full(axis.count, np.nan)
    for verdict in verdicts:
        said = value(verdict)
        if said is not None:
            values[axis.bucket(verdict.moment)] = said
    return values


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.0f}\u00a0%"


def _svg(axis: Axis, body: str) -> str:
    return f'<svg viewBox="0 0 {axis.count} 100" preserveAspectRatio="none" aria-hidden="true">{body}</svg>'


def _area(tops: Values, bottoms: Values | None = None) -> str:
    """Steps from `bottoms` (0 when none) up to `tops`, both 0 to 100, one rectangle a run of equal ones."""
    floor = np.zeros_like(tops) if bottoms is None else bottoms
    path, first = [], 0
    for bucket in range(1, len(tops) + 1):
        same = bucket < len(tops) and tops[bucket] == tops[first] and floor[bucket] == floor[first]
        if same:
            continue
        if np.isfinite(tops[first]) and np.isfinite(floor[first]):
            low, high = f"{100 - floor[first]:.3g}", f"{100 - tops[first]:.3g}"
            path.append(f"M{first} {low}V{high}H{bucket}V{low}Z")
        first = bucket
    return "".join(path)


def _line(values: Values) -> str:
    """A line through the buckets' middles, straight over those that have no value, and level at both ends."""
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return ""
    points = [f"{bucket + 0.5} {100 - values[bucket]:.3g}" for bucket in known]
    return f"M{known[0]} {100 - values[known[0]]:.3g}L{'L'.join(points)}H{known[-1] + 1}"
