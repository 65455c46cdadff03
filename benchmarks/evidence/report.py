"""Writes `docs/evidence.md` from the rows alone: the same rows, the same page."""

from collections.abc import Iterator, Mapping, Sequence

import numpy

from benchmarks.evidence.curves import FOLLOWS_WITHIN, Trajectory, best_of, interval
from benchmarks.evidence.equal import LEAST_GAIN, at_equal_likeness, pairs, ratio
from benchmarks.evidence.methods import CHECK_EVERY, DRAWN_AT, STEPS, tuned_as
from benchmarks.evidence.pictures import PLACES_ASKED, SEEDS
from benchmarks.evidence.replay import Choose, at, at_last, by_rule
from benchmarks.evidence.scores import HEAD, Outcome, hits_of_halves, line, mean_regret, outcomes, signed
from benchmarks.evidence.tuning import AS_LIVE, THINNINGS, best_constant, controls

PLANNED = {"evidence": 24, "tuning": 6}  # runs of a method: subjects x seeds
LOSES_LESS = "loses less"
FEWEST = 3  # subjects, for an interval over them
MEASURES = {"likeness": "likeness", "follows": "prompts", "copies": "copies", "moved": "others moved", "drift": "drift"}
INTRODUCTION = f"""# Evidence: does it know when to stop, and is it better?

Made by `python -m benchmarks.evidence report` from `benchmarks/evidence/measured/`; do not edit. All of it was measured on the
pocket model, a toy of 64 px, with things it had never seen; how far it holds for a large model it cannot say.

A run trains {STEPS} steps on five photos. Every {CHECK_EVERY} steps the whole split is measured, so that any rule can be
asked afterwards as if the run had been live. At steps {", ".join(map(str, DRAWN_AT))} pictures are drawn, with the same
prompts and seeds for all, and looked at by networks that no rule sees:

- **likeness**: cosine (EfficientNet-Lite0) to held-out photos, of {len(PLACES_ASKED) * len(SEEDS)} pictures, in places that
  no photo shows: {", ".join(PLACES_ASKED)};
- **prompts**: how likely the judge (`benchmarks/judge.py`) calls it that a picture shows the place and the treatment that were
  asked for, 0 to 1; of the same pictures and of sketches, pixel art, watercolors and black and white in four of the places;
- **copies**: cosine of pictures by the caption alone to the nearest photo;
- **others moved**: 1 - cosine of pictures without the subject to the untrained model's own;
- **drift**: mean squared change of the model's predictions where the subject is not asked for; the rule is told a quicker form.

The **best step** is the checkpoint with the best likeness among those that follow prompts at most {FOLLOWS_WITHIN} worse than the
untrained model and whose pictures are less like a photo than the photos are like each other. Checkpoints that qualify and are
within one standard error of it are as good; a **hit** is a kept step between the first and the last of them, or within 20 % of
that. What is **lost** is the best step's figure minus the kept one's; for likeness half of the pictures choose the best step and
the other half tell the loss, so it is not flattered by luck and can be below 0. Between the steps that were drawn figures are
read off a straight line. Intervals are 95 %, by drawing subjects anew. The rule's numbers and the best constant were found on
the tuning subjects alone. The machine was shared, so costs are in steps, not seconds.
"""


def page(runs: Mapping[str, Sequence[Trajectory]]) -> str:
    """The whole page; `runs` by the role of their subjects."""
    short = list(_in_short(runs))
    title, _, rest = INTRODUCTION.partition("\n\n")
    parts = [title, "", _first_line(short), "", rest, "## In short\n", *short, ""]
    for role in PLANNED:
        if not runs[role]:
            parts.append(f"## The {role} subjects\n\nNothing is measured yet.\n")
            continue
        parts.append(f"## The {role} subjects\n")
        for method in dict.fromkeys(run.finished.method for run in runs[role]):
            own = [run for run in runs[role] if run.finished.method == method]
            parts += [_of_rule(role, method, own, controls(_tuned(runs, method) or own)), _of_runs(own)]
        parts += [_of_methods(runs[role]), _at_equal_likeness(runs[role])]
    return "\n".join(parts)


def _in_short(runs: Mapping[str, Sequence[Trajectory]]) -> Iterator[str]:
    """A sentence for each role and method: the rule, and whether it beats the best constant."""
    for role, planned in PLANNED.items():
        for method in dict.fromkeys(run.finished.method for run in runs[role]):
            own = _same(runs[role], method)
            step = best_constant(_tuned(runs, method) or own)
            ways = {"the rule": outcomes(own, by_rule()), f"always step {step}": outcomes(own, at(step))}
            yield f"- **{role} subjects, {method}, n = {len(own)} of {planned}.** {_comparison(ways)}"


def _first_line(short: Sequence[str]) -> str:
    """Whether the rule does what it is there for, said before anything else."""
    told = [line for line in short if line.startswith("- **evidence subjects")]
    is_better = bool(told) and all(LOSES_LESS in line for line in told)
    words = "loses less" if is_better else "is **not** shown to lose less"
    return (
        f"On the evidence subjects the rule {words} likeness and prompts than the best constant of the tuning subjects."
    )


def _comparison(ways: Mapping[str, Sequence[Outcome]]) -> str:
    """Two ways to choose on the same runs: what each brings, and whether the first one is told to be better."""
    told = "; ".join(
        f"{name}: {sum(one.is_hit for one in results)} of {len(results)} hits, likeness and prompts lost "
        f"{signed(mean_regret(results))}, median drift {numpy.median([one.drift for one in results]):.4f}"
        for name, results in ways.items()
    )
    one, other = ways.values()
    groups: dict[str, list[float]] = {}
    for mine, its in zip(one, other, strict=True):
        groups.setdefault(mine.run.finished.subject, []).append(mine.regret - its.regret)
    if len(groups) < FEWEST:
        return f"{told}. Too few subjects to tell them apart."
    low, high = interval(groups)
    words = LOSES_LESS if high < 0 else "loses more" if low > 0 else "is not told from that"
    difference = mean_regret(one) - mean_regret(other)
    return f"{told}. The rule {words}: difference {signed(difference)} (95 %, {signed(low)} to {signed(high)})."


def _tuned(runs: Mapping[str, Sequence[Trajectory]], method: str) -> list[Trajectory]:
    return _same(runs["tuning"], tuned_as(method))


def _same(runs: Sequence[Trajectory], method: str) -> list[Trajectory]:
    return [run for run in runs if run.finished.method == method]


def _of_rule(role: str, method: str, runs: Sequence[Trajectory], ways: Mapping[str, Choose]) -> str:
    """The rule against its controls, on the runs of a method."""
    seeds = sorted({run.finished.seed for run in runs})
    without = sum(best_of(run) is None for run in runs)
    errors = [one.std(ddof=1) / len(one) ** 0.5 for run in runs for one in run.pictures("likeness")]
    subjects = len({run.finished.subject for run in runs})
    count = (
        f"n = {len(runs)} of {PLANNED[role]} runs planned (subjects: {subjects}, seeds: {', '.join(map(str, seeds))})"
    )
    noise = f"The likeness of a checkpoint has a standard error of {numpy.mean(errors):.3f}."
    lines = [
        f"### When to stop: {method}\n",
        f"{count}; {without} of them have no best step and do not count. {noise}\n",
    ]
    if without == len(runs):
        return "\n".join(lines)
    rule = outcomes(runs, by_rule())
    lines += [HEAD, line("**our rule**", rule)]
    lines += [
        line(f"our rule, {name}", outcomes(runs, by_rule(thinning=one)))
        for name, one in THINNINGS.items()
        if name != AS_LIVE
    ]
    lines += [line(name, outcomes(runs, choose)) for name, choose in ways.items()]
    (itself, count), (rules, _) = hits_of_halves(runs), hits_of_halves(runs, by_rule())
    lines.append(
        f"\nBy half of the pictures the rule hits {rules:g} of {count}, and the best step by the other half {itself:g} of "
        f"{count}: how well the judge knows itself, more than which is luck."
    )
    return "\n".join([*lines, ""])


def _of_runs(runs: Sequence[Trajectory]) -> str:
    """A line a run."""
    heads = "subject, seed | kept | ended | best (as good) | likeness: untrained, kept, best, last"
    lines = [f"| {heads} | prompts | copies (photos) | drift |", "| --- |" + " ---: |" * 7]
    for run in runs:
        choice, best = by_rule()(run), best_of(run)
        steps = (0, choice.kept, best.step if best else None, run.last_step)
        figures = {
            name: ", ".join("-" if step is None else f"{run.at(step, name):.{digits}f}" for step in steps)
            for name, digits in (("likeness", 2), ("follows", 2), ("copies", 2), ("drift", 3))
        }
        as_good = f"{best.step} ({best.first} to {best.last})" if best else "none"
        name, photos = f"{run.finished.subject}, {run.finished.seed}", f"({numpy.mean(run.nearest):.2f})"
        copies = f"{figures['copies']} {photos}"
        cells = [name, str(choice.kept), str(choice.ended), as_good, figures["likeness"], figures["follows"], copies]
        lines.append(f"| {' | '.join(cells)} | {figures['drift']} |")
    return "\n".join([*lines, ""])


def _of_methods(runs: Sequence[Trajectory]) -> str:
    """What each method's pictures show, at the step that the rule keeps and at the last one."""
    lines = [
        "### The methods\n",
        f"| method, step | n | {' | '.join(MEASURES.values())} |",
        "| --- | ---: |" + " ---: |" * len(MEASURES),
    ]
    for method in dict.fromkeys(run.finished.method for run in runs):
        own = _same(runs, method)
        for name, choose in (("kept by the rule", by_rule()), ("last", at_last)):
            at = [(run, choose(run).kept) for run in own]
            means = [numpy.mean([run.at(step, measure) for run, step in at]) for measure in MEASURES]
            lines.append(f"| {method}, {name} | {len(own)} | {' | '.join(signed(mean) for mean in means)} |")
    base = [numpy.mean([run.at(0, measure) for run in runs]) for measure in MEASURES]
    return "\n".join([*lines, f"| untrained | | {' | '.join(signed(mean) for mean in base)} |", ""])


def _at_equal_likeness(runs: Sequence[Trajectory]) -> str:
    """Each method against plain training, where both are equally like the subject."""
    told = (
        "Each run and the plain one of the same subject and seed, each at its first step with 95 % of the likeness that both "
        "gain: drift and others moved as shares of plain training's, prompts and copies as differences. A pair counts if both "
        f"gain {LEAST_GAIN} or more.\n"
    )
    lines = ["### At equal likeness\n", told, "| method | pairs | drift | others moved | prompts | copies |"]
    lines.append("| --- |" + " ---: |" * 5)
    for method in dict.fromkeys(run.finished.method for run in runs if run.finished.method != "plain"):
        both = pairs(runs, method)
        if both:
            found = {name: [at_equal_likeness(pair, name) for pair in both] for name in MEASURES}
            shares = " | ".join(f"{ratio(found[name]):.2f}" for name in ("drift", "moved"))
            differences = " | ".join(
                signed(numpy.mean([one - other for one, other in found[name]])) for name in ("follows", "copies")
            )
            lines.append(f"| {method} | {len(both)} | {shares} | {differences} |")
    return "\n".join([*lines, ""])
