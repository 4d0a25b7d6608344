"""Compares an import of a disk by isr with backups of it by restic and borg. All write to directories on one disk."""
import os
import shutil
import statistics

import programs
from content import change, make_half_full
from measure import MIB, drop_page_cache, seconds


def used(folder):
    """Returns the size in bytes of all files below a folder."""
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


class Isr:
    name, needs = "isr", ()

    def start(self, world, store):
        self.host = world.host("importer")
        self.host.init_repository(store)
        world.log_in(self.host)

    def keep(self, world, store, disk, number):
        self.host.run("import", f"disk{number}", disk, timeout=1800)


class Restic:
    name, needs = "restic", ("restic",)

    def start(self, world, store):
        programs.run(world, "restic", "-q", "-r", store, "init")

    def keep(self, world, store, disk, number):
        # --force makes restic read the whole image each time, as isr does; without it restic only looks at the file's time.
        programs.run(world, "restic", "-q", "-r", store, "backup", "--force", disk, timeout=1800)


class Borg:
    name, needs = "borg", ("borg",)

    def start(self, world, store):
        programs.run(world, "borg", "init", "-e", "repokey-blake2", store)

    def keep(self, world, store, disk, number):
        programs.run(world, "borg", "create", "--compression", "zstd,1", f"{store}::disk{number}", disk, timeout=1800)


def measure(world, rounds, wanted, size):
    """Measures one first import by each program, then `rounds` imports of the slightly changed disk. Prints and returns rows."""
    disk = world.folder / "backup.raw"
    data = make_half_full(disk, size, seed=9)
    chosen, stores = [], {}
    for program in (Isr(), Restic(), Borg()):
        if wanted and program.name not in (*wanted, "isr"):
            continue
        absent = programs.missing(program)
        if absent:
            print(f"{program.name}: skipped, not installed: {', '.join(absent)}")
            continue
        stores[program.name] = world.new_folder(f"store-{program.name}")
        program.start(world, stores[program.name])
        chosen.append(program)

    def once(number):
        times = {}
        for program in chosen:
            drop_page_cache()
            times[program.name] = seconds(lambda: program.keep(world, stores[program.name], disk, number))
        return times

    first = once(0)
    sizes = {name: used(store) for name, store in stores.items()}
    again = []
    for number in range(rounds):
        change(disk, max(16, size // (64 * MIB)), seed=10 + number)
        again.append(once(number + 1))
    print(f"\n{'':<12}{'first MB/s':>12}{'again MB/s':>12}{'stored':>10}{'grew MB':>10}   MB of data ({data // MIB} MiB of a disk of "
          f"{size // MIB} MiB); stored: first time, as a share of it")
    rows = []
    for name, store in stores.items():
        row = {"program": name, "first_mb_s": data / first[name] / 1e6,
               "again_mb_s": data / statistics.median(times[name] for times in again) / 1e6,
               "stored": sizes[name] / data, "grew_mb": (used(store) - sizes[name]) / rounds / 1e6}
        print(f"{name:<12}{row['first_mb_s']:>12.1f}{row['again_mb_s']:>12.1f}{row['stored']:>10.2f}{row['grew_mb']:>10.1f}")
        rows.append(row)
        shutil.rmtree(store, ignore_errors=True)
    disk.unlink()
    return rows
