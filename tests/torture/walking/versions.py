"""Finds the versions that a walk publishes, and hands them to the audit."""
from support import expect
from walking.audit import Moment, Version
from walking.scene import Window


class Versions:
    def __init__(self, scene):
        self.scene = scene

    def open_window(self, parcel):
        parcel.heard()
        low = parcel.run.moment().low if parcel.run else parcel.memory.low if parcel.memory else 0
        if parcel.window:
            low, flushed = min(low, parcel.window.low), min(parcel.flushed, parcel.window.flushed)
        else:
            flushed = parcel.flushed
        parcel.window = Window(low, flushed)

    def new_numbers(self):
        return [number for number in self.scene.place.heads() if number not in self.scene.auditor.versions]

    def find(self, acting, but=None):
        """Notes the versions published since the last call. Each belongs to a host whose publish may be under way."""
        for number in self.new_numbers():
            if number == but:
                continue
            candidates = [acting] if acting.window else [p for p in self.scene.parcels.values() if p.window]
            expect(candidates, f"version {number} was published by nobody")
            parcel = candidates[0]
            parcel.heard()
            if parcel.run:
                high = parcel.run.moment().high
            else:
                high = parcel.memory.high if parcel.memory else 1 << 60
            version = Version(number, Moment(parcel.window.low, high), parcel.window.flushed)
            self.scene.auditor.take(version, None)
            parcel.content = version

    def find_copy(self, parcel, target):
        """Notes the version of a rollback, which is the last one. An interrupted publish may have ended before it."""
        new = self.new_numbers()
        if new:
            self.find(parcel, but=new[-1])
            self.scene.auditor.take_copy(new[-1], self.scene.auditor.versions[target])
