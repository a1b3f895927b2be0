"""What bench.sh measured, as JSON and as tables. Standard library only.

    bench_table.py summary ROWS SAMPLES NOTES OUT    make bench.json and print it; exit code 3 if a goal is missed
    bench_table.py markdown BENCH_JSON               print it as a table for README.md
    bench_table.py ceiling BENCH_JSON NAME=MOST...   exit code 3 if a figure is missing or above its ceiling
"""

import json
import statistics
import sys


def words(path, count):
    """The lines of a file, cut into `count` words."""
    with open(path, encoding="utf-8") as file:
        return [line.split(None, count - 1) for line in file if line.strip()]


def row(name, unit, relation, goal, figures, note):
    """One row. Without a figure the goal is not met."""
    result = {"name": name, "unit": unit, "goal": float(goal), "figure": None, "spread": None, "met": False}
    result["relation"] = relation
    if figures:
        median = statistics.median(figures)
        spread = 0.0 if median == 0 else (max(figures) - min(figures)) / 2 / abs(median) * 100
        met = median >= float(goal) if relation == ">=" else median <= float(goal)
        result |= {"figure": float(f"{median:.4g}"), "spread": round(spread, 1), "met": met, "runs": len(figures)}
    if note:
        result["note"] = note
    elif not figures:
        result["note"] = "not measured"
    return result


def cells(entry):
    """A row as text: name, unit, goal, figure, spread, verdict."""
    goal = f"{entry['relation']} {entry['goal']:g}"
    if entry["figure"] is None:
        return [entry["name"], entry["unit"], goal, "-", "-", entry["note"]]
    verdict = "met" if entry["met"] else "missed"
    if "note" in entry:
        verdict += f" ({entry['note']})"
    return [entry["name"], entry["unit"], goal, f"{entry['figure']:g}", f"±{entry['spread']:g} %", verdict]


HEAD = ["figure", "unit", "goal", "measured", "spread", ""]


def plain(rows):
    """A table for a terminal."""
    lines = [HEAD] + [cells(entry) for entry in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def markdown(rows):
    """A table for README.md."""
    lines = [HEAD, ["---"] * len(HEAD)] + [cells(entry) for entry in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def summary(rows_path, samples_path, notes_path, out_path):
    """Makes bench.json out of the samples, and prints it."""
    samples = words(samples_path, 2)
    notes = {name: note.strip() for name, note in words(notes_path, 2)}
    rows = [
        row(name, unit, relation, goal, [float(value) for of, value in samples if of == name], notes.get(name))
        for name, unit, relation, goal in words(rows_path, 4)
    ]
    with open(out_path, "w", encoding="utf-8") as file:
        json.dump(rows, file, indent=1)
        file.write("\n")
    print(plain(rows))
    return 0 if all(entry["met"] for entry in rows) else 3


def ceiling(path, limits):
    """Holds figures to ceilings, which are not their goals but what must not be lost again."""
    with open(path, encoding="utf-8") as file:
        figures = {entry["name"]: entry["figure"] for entry in json.load(file)}
    code = 0
    for limit in limits:
        name, most = limit.split("=")
        figure = figures.get(name)
        if figure is None or figure > float(most):
            print(f"{name}: {figure} is above its ceiling of {most}" if figure is not None else f"{name}: not measured")
            code = 3
    return code


def main(arguments):
    match arguments:
        case ["ceiling", path, *limits] if limits:
            return ceiling(path, limits)
        case ["summary", rows, samples, notes, out]:
            return summary(rows, samples, notes, out)
        case ["markdown", path]:
            with open(path, encoding="utf-8") as file:
                print(markdown(json.load(file)))
            return 0
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
