"""Causes incidents during a command and between commands."""
import contextlib
import dataclasses
import os
import signal
import subprocess
import threading
import time

import support
from support import expect
from walking import expected, place
from walking.place import PARCEL
from walking.scene import PATIENCE


class Incidents:
    def __init__(self, scene, forecast, observer):
        self.scene, self.forecast, self.observer = scene, forecast, observer

    def run(self, parcel, step, arguments):
        """Runs a command with the step's event. Returns its result, its seconds, and whether the link had to be mended."""
        ended, waited = threading.Event(), []
        threads, failures = [], []
        def thread(body, *values):
            def guarded():
                try:
                    body(*values)
                except Exception as failure:  # pylint: disable=broad-except
                    failures.append(failure)
            threads.append(threading.Thread(target=guarded))
            threads[-1].start()
        def mend_if_it_waits():
            if not ended.wait(PATIENCE):
                self.scene.mend(parcel.name)
                waited.append(True)
        def meanwhile(process):
            if parcel.name in self.scene.cut:
                thread(mend_if_it_waits)
            if step.event:
                thread(self._happen, parcel, step, process, ended)
        began = time.monotonic()
        try:
            result = parcel.host.run(*arguments, expect=None, timeout=place.COMMAND_TIMEOUT, meanwhile=meanwhile)
            seconds = place.seconds_since(began)
        finally:
            ended.set()
            for one in threads:
                one.join()
        if failures:
            raise failures[0]
        return result, seconds, bool(waited)

    def _happen(self, parcel, step, process, ended):
        """Causes the step's event, and ends it again."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(step.moment)
        if step.event == "interrupt":
            if process.poll() is None:
                process.send_signal(step.signal)
        elif step.event == "pause command":
            with place.paused(process.pid):
                ended.wait(step.length)
        elif step.event == "cut":
            self.scene.place.links[parcel.name].cut()
            ended.wait(step.length)
            if parcel.name not in self.scene.cut:
                self.scene.place.links[parcel.name].mend()
        elif step.event == "kill server":
            self.scene.place.restart_server(step.length, ended.wait)
        elif step.event == "kill daemon":
            self._kill_daemon(parcel)
        elif step.event == "kill qemu":
            self._kill_qemu(parcel)
        elif step.event == "beside":
            result = parcel.host.run(step.beside, PARCEL, expect=None, timeout=place.COMMAND_TIMEOUT)
            self.scene.note(f"{step.beside} beside it: exit {result.code}")
            codes, states = {expected.VM}, set()
            self.forecast.add_both(parcel, dataclasses.replace(step, command=step.beside, beside=step.command), codes, states)
            expect(result.code in codes, f"{step.beside} beside {step}: exit {result.code}, expected one of {sorted(codes)}\n{result}")

    def _kill_daemon(self, parcel):
        for pid in self.scene.place.pids(parcel.name, b"isr __session"):
            support.kill(pid)
            place.wait_for_death(pid)

    def _kill_qemu(self, parcel):
        pids = [parcel.vm_pid] if parcel.vm_pid else self.scene.place.pids(parcel.name, b"qemu-system")
        for pid in pids:
            support.kill(pid)
            place.wait_for_death(pid)

    def event(self, parcel, step):
        event = step.event
        if event == "cut link":
            self.scene.place.links[parcel.name].cut()
            self.scene.cut.add(parcel.name)
        elif event == "mend link":
            self.scene.mend(parcel.name)
        elif event == "lose cache":
            self.scene.place.lose_cache(parcel.name)
        elif event == "mapping":
            parcel.host.variables["ISR_VM_MEMORY"] = step.options[0]
            self.scene.note(step.options[0])
        elif event in ("run", "borrow", "work"):
            self._let_run(parcel, event)
        elif event == "pause qemu":
            if parcel.vm_pid:
                with place.paused(parcel.vm_pid):
                    self.scene.stat(parcel)
        elif event == "pause daemon":
            self._pause_daemon(parcel)
        elif event == "kill daemon":
            self._kill_daemon(parcel)
            parcel.states = {"off" if s == "running" else s for s in parcel.states}
        elif event == "kill qemu":
            self._kill_qemu(parcel)
            parcel.states = {"off" if s == "running" else s for s in parcel.states}
        elif event == "term daemon":
            for pid in self.scene.place.pids(parcel.name, b"isr __session"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                place.wait_for_death(pid, place.SUSPEND_TIMEOUT)
            parcel.states = {"suspended" if s == "running" else s for s in parcel.states}
        elif event == "copied home":
            self._copy_home(parcel)
        if event in ("kill daemon", "kill qemu", "term daemon", "copied home") and parcel.state != "absent":
            self.observer.observe(parcel, step, 0, (None, True), None, set(parcel.states))

    def _copy_home(self, parcel):
        if parcel.state not in ("off", "suspended") or parcel.lock_lost or parcel.window or parcel.name in self.scene.cut:
            return
        self._kill_daemon(parcel)
        self.scene.conflicts.copied_home(parcel)

    def _let_run(self, parcel, event):
        if parcel.state != "running" or not parcel.run:
            return
        if not parcel.run.wait(lambda: self.scene.waits(parcel), checks=1):
            self.scene.note("its memory is out of reach")
        elif event == "borrow" and parcel.name not in self.scene.cut:
            parcel.run.type("borrow 8", "BORROWED 8")
        elif event == "work" and parcel.name not in self.scene.cut:
            parcel.run.type("work", "WORK .*")

    def _pause_daemon(self, parcel):
        pids = self.scene.place.pids(parcel.name, b"isr __session")
        if not pids or not parcel.state or parcel.state == "absent":
            return
        with place.paused(pids[-1]):
            began = time.monotonic()
            result = parcel.host.run("stat", PARCEL, expect=None, timeout=60)
            took = place.seconds_since(began)
        expect(result.code == expected.NO_DAEMON, f"stat of a daemon that stands still: {result}")
        expect(took < place.STAT_TIMEOUT, f"stat of a daemon that stands still took {took:.1f} s")
        self.scene.stat(parcel)
        if parcel.run and parcel.state == "running":
            parcel.run.listen_again()
