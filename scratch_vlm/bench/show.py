"""The results of the benchmark, as text and as a figure."""

from matplotlib.ticker import LogLocator, NullFormatter

from scratch_vlm.bench.judge import by_size
from scratch_vlm.bench.subjects import OPS
from scratch_vlm.viz.style import MARGIN, SMALL, WIDTH, Sheet, styled

PRECISIONS = ("float32", "tf32", "bf16")
_SPECIAL = {"compiled", "graph", "without"}  # marks of these are hollow
DASHES = {"float32": "-", "tf32": (0, (5, 2)), "bf16": (0, (1.5, 1.5))}
MARKS = {"float32": "o", "tf32": "s", "bf16": "^"}
NAMED = 5  # pieces of work that were skipped for one reason
ACROSS, WIDE, HIGH = 3, 1.75, 1.25  # panels in a row, and inches of each
ROW, LANE = 0.12, 0.14  # inches of a model, and more for each precision


def table(report):
    """Write results as text.

    Parameters
    ----------
    report : dict
        Of `run.run_bench`.

    Returns
    -------
    str
        Times and shares of the floor, memory, ceilings, crossovers, targets, and what is missing.
    """
    results = by_size(report["results"])
    lines = _columns("median time, and share of the floor", results, _time)
    lines += _columns("most memory, of a model and its step", results, _memory)
    lines += ["", "ceilings, of large products and of copies as large as what is copied"]
    for place, ceiling in report["ceilings"].items():
        speeds = [f"{speed / 1e9:.4g}" for _, speed in ceiling["bytes"]]
        lines.append(f"  {place}: {ceiling['flops'] / 1e9:,.4g} GFLOP/s, {' '.join(speeds)} GB/s")
    lines += _list("seconds until a compiled step was there", _firsts(results))
    crossings = {family: _crossing(found) for family, found in report["crossover"].items()}
    lines += _list("the GPU is faster than NumPy, both in float32", crossings)
    if any(one["ratio"] is not None for one in report["targets"]):
        lines += _list("targets", dict(map(_verdict, report["targets"])))
    else:
        lines += ["", "targets of a GPU: unmeasured"]
    lines += _list("measured", _codes(report["results"]))
    lines += _list("skipped", _grouped(report["skipped"]))
    lines += _list("remarks", report["remarks"]) + _list("failed", report["failed"])
    if report["interrupted"]:
        lines += ["", "interrupted; this is what was measured until then"]
    return "\n".join(lines)


def _firsts(results):
    return {
        f"{name}: {_label(entry)}": f"{taken['first']:.0f}"
        for entry in results
        for name, taken in entry["times"].items()
        if "compiled" in name
    }


def _crossing(found):
    unit, size = found["unit"], found["wins_from"]
    if size is None:
        return f"at none of these sizes, up to {found['largest']:,} {unit}"
    if found["about"] is None:
        return f"at all of these sizes, {size:,} {unit} and more"
    return f"from about {found['about']:,} {unit} on; measured at {size:,}"


def _verdict(target):
    what = f"{target['what']}, {target['size']}: {target['who']} beside {target['beside']}"
    aim = f"at most {target['at_most']:.3g}"
    if target["ratio"] is None:
        return what, f"unmeasured, {aim}"
    met = "met" if target["ratio"] <= target["at_most"] else "missed"
    return what, f"{target['ratio']:.3g} of its time, {aim}: {met}"


def _codes(results):  # so that numbers of two versions are not taken for one
    codes = {}
    for entry in results:
        codes.setdefault(entry["code"], []).append(entry["date"])
    return {
        code if code.startswith("files") else f"commit {code}": (
            f"{len(dates)} piece" + "s" * (len(dates) > 1) + f" of work, {_span(dates)}"
        )
        for code, dates in codes.items()
    }


def _span(dates):
    first, last = min(dates), max(dates)
    return first if first == last else f"{first} to {last}"


def _grouped(reasons):  # those who skipped the same for the same reason, in one line
    groups, works = {}, {}
    for at, why in reasons.items():
        who, _, what = at.partition(": ")
        groups.setdefault((what, why), []).append(who)
    for (what, why), who in groups.items():
        works.setdefault((", ".join(who), why), []).append(what)
    return {
        ": ".join(filter(None, (who, _first_of(what)))): why for (who, why), what in works.items()
    }


def _first_of(names):  # the file with the results lists all
    more = len(names) - NAMED
    return "; ".join(names if more < 2 else [*names[:NAMED], f"and {more} more"])


def _list(title, found):
    lines = [f"  {what}: {said}" for what, said in found.items()]
    return ["", title, *lines] if lines else []


def _names(results):  # of whoever has a result: NumPy, ours, PyTorch; plain before compiled
    names = dict.fromkeys(name for entry in results for name in entry["times"])
    libraries = [*dict.fromkeys(name.split()[0] for name in names)]

    def place(name):
        special = not _SPECIAL.isdisjoint(name.split())
        return libraries.index(name.split()[0]), special, PRECISIONS.index(_precision(name))

    return sorted(names, key=place)


def _precision(name):
    return next((word for word in name.split() if word in PRECISIONS), PRECISIONS[0])


def _label(entry):
    return f"{entry['family']}, {entry['size']} {entry['unit']}"


def _columns(title, results, cell):  # a table for each precision, so that it is not too wide
    lines = []
    for precision in PRECISIONS:
        names = [name for name in _names(results) if _precision(name) == precision]
        found = names and _rows(f"{title}: {precision}", results, names, cell)
        if found:
            lines += ["", *found] if lines or "memory" in title else found
    return lines


def _rows(title, results, names, cell):
    rows = [(_label(entry), entry["times"]) for entry in results]
    rows = [(label, [cell(times.get(name)) for name in names]) for label, times in rows]
    rows = [(label, cells) for label, cells in rows if set(cells) != {"–"}]
    if not rows:
        return []
    first = max(len(label) for label, _ in [(title, ()), *rows])
    widths = [
        max(map(len, (name, *cells))) + 3
        for name, *cells in zip(names, *(cells for _, cells in rows), strict=True)
    ]
    return [
        f"{label:{first}}"
        + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for label, cells in [(title, names), *rows]
    ]


def _time(taken):
    if taken is None:
        return "–"
    return f"{_seconds(taken['seconds'])} {100 * taken['share_of_floor']:3.0f} %"


def _seconds(value):
    for size, unit in ((1, "s"), (1e-3, "ms")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def _memory(taken):
    known = taken is not None and taken["memory"] is not None
    return f"{taken['memory'] / 2**20:,.0f} MiB" if known else "–"


def draw(report, theme="light"):
    """Draw times over sizes, and those of models, with their floors.

    Parameters
    ----------
    report : dict
        Of `run.run_bench`.
    theme : {"light", "dark"}, default "light"
        Colours.

    Returns
    -------
    matplotlib.figure.Figure
    """
    families, results = {}, by_size(report["results"])
    for entry in results:
        if entry["kind"] in OPS:
            families.setdefault(entry["family"], []).append(entry)
    models = [entry for entry in results if entry["kind"] not in OPS]
    grid = -(-len(families) // ACROSS) * (HIGH + 0.75)
    lanes = [p for p in PRECISIONS if any(_precision(n) == p for e in models for n in e["times"])]
    tall = (ROW + LANE * len(lanes)) * len(models)
    bottom = tall + 0.6 if models else 0.0
    with styled(theme) as look:
        colours = {"numpy": look.ink, "torch": look.wrong}
        names = [*_names(results), "floor"]
        places = _places(names)
        head = places[-1][1] + 0.55
        title = "How long it takes, and the least that it can"
        sheet = Sheet(WIDTH, head + grid + bottom, look, title)
        _legend(sheet, dict(zip(names, places, strict=True)), colours, look)
        for i, (family, entries) in enumerate(families.items()):
            left = 0.6 + i % ACROSS * (WIDE + 0.55)
            top = head + 0.1 + i // ACROSS * (HIGH + 0.75)
            axes = sheet.axes(left, top, WIDE, HIGH)
            sheet.text(left, top - 0.14, f"{family}, ms", weight="bold", size=SMALL)
            _curves(axes, entries, colours, look)
        if models:
            axes = sheet.axes(2.9, head + grid, WIDTH - 3.1, tall)
            _dots(axes, models, lanes, colours, look)
    return sheet.figure


def _style(name, colours, look):  # colour, precision, and whether its marks are hollow
    library, *rest = name.split()
    return colours.get(library, look.main), _precision(name), not _SPECIAL.isdisjoint(rest)


def _places(names):  # from the left and from the top, in inches
    left, top, found = MARGIN, 0.2, []
    for name in names:
        wide = 0.55 + 0.075 * len(name)
        if left + wide > WIDTH:
            left, top = MARGIN, top + 0.18
        found.append((left, top))
        left += wide
    return found


def _legend(sheet, places, colours, look):
    for name, (left, top) in places.items():
        colour, precision, hollow = _style(name, colours, look)
        floor = name == "floor"
        sheet.page.plot(
            [left, left + 0.3],
            [top, top],
            color=look.muted if floor else colour,
            linestyle="-" if floor else DASHES[precision],
            linewidth=0.8 if floor else 1.8,
        )
        if not floor:
            sheet.page.plot(left + 0.15, top, **_marker(colour, precision, hollow, look))
        sheet.text(left + 0.36, top, name, size=SMALL, va="center_baseline")


def _marker(colour, precision, hollow, look):
    return {
        "marker": MARKS[precision],
        "markersize": 4.5,
        "color": colour,
        "markerfacecolor": look.paper if hollow else colour,
        "linestyle": "none",
    }


def _curves(axes, entries, colours, look):
    axes.set_xscale("log", base=4)
    axes.set_yscale("log")
    floors = {}
    for name in _names(entries):
        colour, precision, hollow = _style(name, colours, look)
        points = [(e["size"], e["times"][name]) for e in entries if name in e["times"]]
        sizes = [size for size, _ in points]
        axes.plot(
            sizes,
            [1e3 * taken["seconds"] for _, taken in points],
            color=colour,
            linestyle=DASHES[precision],
            linewidth=1.6,
        )
        axes.plot(
            sizes,
            [1e3 * taken["seconds"] for _, taken in points],
            **_marker(colour, precision, hollow, look),
        )
        known = floors.setdefault((points[0][1]["place"], precision), {})
        known |= {size: 1e3 * taken["floor"] for size, taken in points}
    for (_, precision), line in floors.items():
        axes.plot(
            *zip(*sorted(line.items()), strict=True),
            color=look.muted,
            linewidth=0.8,
            linestyle=DASHES[precision],
        )
    sizes = [entry["size"] for entry in entries]
    axes.set_xticks(sizes, [_size(size, sizes[-1]) for size in sizes], size=SMALL - 1)
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    _plain(axes.yaxis)
    axes.minorticks_off()
    axes.grid(True, color=look.rule, linewidth=0.4)
    axes.set_xlabel(entries[0]["unit"], labelpad=1)


def _size(size, largest):
    if largest < 1e5:
        return f"{size:,}"
    return f"{size / 1e6:.2g}M" if size >= 1e6 else f"{size / 1e3:.0f}k"


def _plain(axis):  # 0.1 and 100, not powers
    axis.set_major_formatter(lambda x, _: f"{x:,.10g}")


def _dots(axes, models, lanes, colours, look):  # a row for each model, a lane for each precision
    axes.set_xscale("log")
    share = LANE / (ROW + LANE * len(lanes))
    for i, entry in enumerate(models):
        for name in _names([entry]):
            taken = entry["times"][name]
            at = i + share * (lanes.index(_precision(name)) - (len(lanes) - 1) / 2)
            axes.plot(1e3 * taken["seconds"], at, **_marker(*_style(name, colours, look), look))
            axes.plot(1e3 * taken["floor"], at, "|", color=look.muted, markersize=8)
        if i:
            axes.axhline(i - 0.5, color=look.rule, linewidth=0.4)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _plain(axes.xaxis)
    axes.tick_params(which="minor", color=look.rule)
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.set_yticks(range(len(models)), [_label(entry) for entry in models], size=SMALL)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x", color=look.rule, linewidth=0.4)
    axes.set_xlabel("ms, a step or all new tokens", labelpad=1)
