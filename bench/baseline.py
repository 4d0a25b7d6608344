"""Keeps the figures of the last run and reports those that got worse. Each mode has its own set, because its sizes differ."""
import json
import pathlib

FILE = pathlib.Path(__file__).resolve().parent / "baseline.json"
TOLERANCE = 0.25


def saved():
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {"schema": 1, "modes": {}}


def save(document):
    """Replaces the figures of this mode."""
    kept = saved()
    kept["modes"][document["mode"]] = {
        "machine": document["machine"],
        "figures": {row["path"]: {key: round_number(row[key]) for key in ("value", "ratio", "peak_mib")} | {"unit": row["unit"]}
                    for row in with_paths(document["figures"])},
    }
    FILE.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def round_number(value):
    return None if value is None else float(f"{value:.4g}")


def with_paths(rows):
    """Yields each row with its path. An indented row belongs to the last row before it that is not indented."""
    whole = ""
    for row in rows:
        if not row["name"].startswith(" "):
            whole = row["name"]
        yield row | {"path": whole if row["name"] == whole else f"{whole}: {row['name'].strip()}"}


def compare(document):
    """Prints the figures that are more than a quarter worse than last time. It compares ratios where there are any;
    a number without a ratio can only be compared on the same kind of machine."""
    last = saved()["modes"].get(document["mode"])
    if not last:
        print(f"no figures to compare with: bench/baseline.json has none of mode {document['mode']} (--save)")
        return
    machine = last["machine"]
    same = all(machine[key] == document["machine"][key] for key in ("cores", "cpu"))
    print(f"compared with the last saved figures ({machine['cores']} cores, {machine['cpu']}, kernel {machine['kernel']}):")
    worse = 0
    for row in with_paths(document["figures"]):
        before = last["figures"].get(row["path"])
        if not before or (row["ratio"] is None) != (before["ratio"] is None):
            continue
        what = "ratio" if row["ratio"] is not None else "value"
        was, is_ = before[what], row[what]
        if what == "value" and row["unit"] and not same:
            continue
        if is_ < was * (1 - TOLERANCE) if row["better"] == "more" else is_ > was * (1 + TOLERANCE):
            worse += 1
            unit = "of the reference" if what == "ratio" else row["unit"]
            print(f"  worse: {row['path']}: {is_:.3g}, was {was:.3g} {unit}")
        if row["peak_mib"] and before["peak_mib"] and row["peak_mib"] > before["peak_mib"] * (1 + TOLERANCE):
            worse += 1
            print(f"  more memory: {row['path']}: {row['peak_mib']:.0f} MiB, was {before['peak_mib']:.0f}")
    if not worse:
        print("  nothing got worse by more than a quarter")
