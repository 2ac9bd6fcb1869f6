"""From the seconds of `forget` to ratios, tables and goals."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.outcome import Goal, Outcome, Table, megabytes, seconds, times

Numbers = dict[str, Any]

METHODS = {
    "forget": "(a) forget: subtract and solve",
    "refit_cached": "(b) refit from cached integers",
    "refit_raw": "(c) refit with feature extraction",
    "fine_tune": "(d) fine-tune, one epoch",
}


def cell(form: Numbers, n: int, k: int) -> dict[str, float]:
    """Return the median seconds of everything measured at n and k."""
    found = next(c for c in form["cells"] if (c["n"], c["k"]) == (n, k))
    return {name: median(values) for name, values in found["seconds"].items()}


def ratio(form: Numbers, slow: str, n: int, k: int) -> float:
    """Return how many times the seconds of (a) another method takes."""
    found = cell(form, n, k)
    return found[slow] / found["forget"]


def growth(form: Numbers, sizes: tuple[int, ...]) -> float:
    """Return the seconds of (a) at the largest n over those at the smallest."""
    last, first = (float(median(form["growth"][str(n)])) for n in (sizes[-1], sizes[0]))
    return last / first


def against_lapack(form: Numbers, n: int, k: int) -> float:
    """Return the seconds of the solve over those of the bare LAPACK calls."""
    found = cell(form, n, k)
    return found["solve"] / found["lapack"]


def outcome_of(name: str, numbers: Numbers, sizes: tuple[int, ...], gone: tuple[int, ...]) -> Outcome:
    """Write the tables and judge the goals."""
    tables = [speed(form_name, form, sizes, gone[1]) for form_name, form in numbers["forms"].items()]
    tables += [requests(numbers, sizes, gone), inside(numbers, sizes[-1], gone[1]), memory(numbers), storing(numbers, sizes, gone)]
    return Outcome(name, "Forgetting beside retraining: Fashion-MNIST, one thread", tuple(tables), goals(numbers, sizes, gone[1]), numbers)


def goals(numbers: Numbers, sizes: tuple[int, ...], k: int) -> tuple[Goal, ...]:
    """Compare with what was aimed at, for every choice of features."""
    found, n = [], sizes[-1]
    for name, form in numbers["forms"].items():
        d, speedup = form["d"], ratio(form, "refit_raw", n, k)
        found += [
            Goal(f"(c) over (a), n = {n:,}, k = {k}, {name}, d = {d:,}", ">= 1,000x", times(speedup), speedup >= 1000),
            Goal(f"(a) from n = {sizes[0]:,} to {n:,}, {name}", "< 1.2x", times(growth(form, sizes)), growth(form, sizes) < 1.2),
            Goal(f"solve over bare LAPACK, {name}", "<= 2x", times(against_lapack(form, n, k)), against_lapack(form, n, k) <= 2),
        ]
    cells = [c for form in numbers["forms"].values() for c in form["cells"]]
    equal = sum(c["equal"] for c in cells)
    return (*found, Goal("hash equal to refitting, cells", f"{len(cells)}", f"{equal}", equal == len(cells)))


def speed(name: str, form: Numbers, sizes: tuple[int, ...], k: int) -> Table:
    """Compare the four methods at each n."""
    rows = []
    for n in sizes:
        found = cell(form, n, k)
        for method, title in METHODS.items():
            rows.append((f"{n:,}", title, seconds(found[method]), times(found[method] / found["forget"])))
    two, last = form["two"], cell(form, sizes[-1], k)["forget"]
    rows += [
        (f"{sizes[-1]:,}", "(c) in two processes", seconds(two["refit_raw"]), times(two["refit_raw"] / last)),
        (f"{sizes[-1]:,}", "(d) on two threads", seconds(two["fine_tune"]), times(two["fine_tune"] / last)),
    ]
    layers = f"{form['form'].get('network', 'convnet')}, taps {', '.join(form['form']['taps'] or ['all stages'])}"
    layers += f", channels {form['form']['hidden'] or 'default'}"
    worth = f"Test accuracy without user rows {form['accuracy']['core']:.4f}, with all of them {form['accuracy']['user']:.4f}."
    title = f"{name}: d = {form['d']:,} features, {k} samples forgotten"
    said = f"Features: {layers}; L = {form['ridge']:g}. {worth} Measured on: {form['where']}."
    return Table(title, ("n", "method", "time", "against (a)"), tuple(rows), said)


def requests(numbers: Numbers, sizes: tuple[int, ...], gone: tuple[int, ...]) -> Table:
    """Show (a) and (b) for every size of request."""
    rows = []
    for name, form in numbers["forms"].items():
        for n in sizes:
            for k in gone:
                found = cell(form, n, k)
                ours, theirs = found["forget"], found["refit_cached"]
                rows.append((name, f"{n:,}", f"{k:,}", seconds(ours), seconds(theirs), times(theirs / ours)))
    return Table("By size of the request", ("features", "n", "k", "(a)", "(b)", "(b) / (a)"), tuple(rows),
                 "In every row the sums and the weights of (a) have the sha256 of (b); at the middle k also that of (c).")  # fmt: skip


def inside(numbers: Numbers, n: int, k: int) -> Table:
    """Show what (a) consists of, beside the bare calls and the floor."""
    rows = []
    for name, form in numbers["forms"].items():
        found, least = cell(form, n, k), form["floor"]["seconds"]
        rows.append((
            name, f"{form['d']:,}", seconds(found["subtract"]), seconds(found["solve"]), seconds(found["lapack"]),
            times(found["solve"] / found["lapack"]), seconds(least), times(found["forget"] / least),
        ))  # fmt: skip
    note = f"The floor: flops at the rate of a matrix product ({numbers['product_flops'] / 1e9:.1f} Gflop/s here, one thread), "
    note += "bytes at the rate of copying a matrix of that size. Bare LAPACK: dpotrf and dpotrs on a ready float64 matrix."
    headings = ("features", "d", "subtract", "solve", "bare LAPACK", "solve / LAPACK", "floor of (a)", "(a) / floor")
    return Table(f"Inside (a), n = {n:,}, k = {k}", headings, tuple(rows), note)


def memory(numbers: Numbers) -> Table:
    """Show peaks of memory."""
    rows = [
        (name, f"{found['n']:,}", title, megabytes(found[method]["peak"]))
        for name, form in numbers["forms"].items()
        for found in form["alone"]
        for method, title in METHODS.items()
    ]
    return Table("Peak of memory, each method in a fresh process", ("features", "n", "method", "peak"), tuple(rows),
                 "Resident bytes above the loaded libraries; the method's inputs count.")  # fmt: skip


def storing(numbers: Numbers, sizes: tuple[int, ...], gone: tuple[int, ...]) -> Table:
    """Show the whole step of a forget job on encrypted blobs."""
    rows = []
    for name, form in numbers["forms"].items():
        for found in form["cells"]:
            steps = found["job"]
            phases = {p: median(s["phases"].get(p, 0.0) for s in steps) for p in steps[0]["phases"]}
            shred = median(s["shredding"] for s in steps)
            rows.append((
                name, f"{found['n']:,}", f"{found['k']:,}", seconds(phases["loading"]), seconds(phases["forgetting"]),
                seconds(phases["measuring"] + phases["writing"]), seconds(phases["erasing rows"]), seconds(shred), f"{steps[0]['blocks']}",
            ))  # fmt: skip
    headings = ("features", "n", "k", "load, split blocks", "mathematics", "measure, publish", "erase rows", "shred", "blocks")
    return Table("The forget job's step on encrypted blobs", headings, tuple(rows),
                 "Samples chosen at random touch every block of 1,000 rows once k is large; each is read and written again.")  # fmt: skip
