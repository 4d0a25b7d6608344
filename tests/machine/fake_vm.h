#pragma once

#include <atomic>
#include <map>
#include <set>

#include "base/file.h"
#include "base/sleep.h"
#include "base/whole_file.h"
#include "machine/vm_host.h"

namespace isr::test {

/// A fake host and guest for a machine, without QEMU, mount or console. `calls` lists, in order, the calls that it got:
/// "cont", "stop", "save", "boot", "load", "quit", "kill", "power down", "wait", "mount", "unmount".
struct FakeGuest {
  std::vector<std::string> calls;
  std::set<std::string> fails;  ///< calls that throw Error{kVm}
  std::map<std::string, std::function<void()>> before;
  std::map<std::uint64_t, Bytes> pages;  ///< that are QEMU's own, by offset
  Bytes device_state;                    ///< returned by a save; set by a resume
  VmStamp stamp;
  bool is_held = false;
  std::atomic<bool> is_cable_in{true};                   ///< of the network; also changed on another thread
  Sync<std::optional<VmExit>> exit;                      ///< how the guest ended; also set on another thread
  std::vector<std::string> mounted;                      ///< the names of the files in the present mount
  std::map<std::string, std::shared_ptr<Image>> images;  ///< the images of `mounted`, by name
  bool is_immutable = false;
  bool is_isolated = false;          ///< from the network
  Patience patience;                 ///< of QemuOptions
  bool is_tracked = false;           ///< writes are noted in `written`
  std::vector<MemoryRange> written;  ///< since begin_tracking() or take_written()

  /// Writes a page as the guest.
  void write(std::uint64_t offset, const Bytes& page) {
    pages[offset] = page;
    if (is_tracked) written.push_back({offset, offset + page.size()});
  }

  void call(const std::string& what) {
    if (const auto it = before.find(what); it != before.end()) it->second();
    calls.push_back(what);
    if (fails.contains(what)) throw Error(ErrorKind::kVm, what + ": not now");
  }
  bool was_called(const std::string& what) const { return std::find(calls.begin(), calls.end(), what) != calls.end(); }
  Image& image(const std::string& file) const { return *images.at(file); }
  /// Returns and clears `calls`.
  std::vector<std::string> take_calls() { return std::exchange(calls, {}); }
};

class FakeMemory : public VmMemory {
 public:
  explicit FakeMemory(FakeGuest& guest) : guest_(guest) {}
  MemoryMapping mapping() const noexcept override { return MemoryMapping::kPrivate; }
  bool read_around() override { return true; }
  std::optional<std::vector<MemoryRange>> begin_tracking() override {
    guest_.is_tracked = true;
    return changed();
  }
  void end_tracking() override {
    guest_.is_tracked = false;
    guest_.written.clear();
  }
  std::vector<MemoryRange> take_written() const override { return std::exchange(guest_.written, {}); }
  std::vector<MemoryRange> changed() const override {
    std::vector<MemoryRange> runs;
    for (const auto& [offset, page] : guest_.pages) runs.push_back({offset, offset + page.size()});
    return runs;
  }
  void visit(std::span<const MemoryRange> runs,
             const std::function<void(std::uint64_t offset, ByteView bytes)>& visit) const override {
    for (const MemoryRange& run : runs) visit(run.begin, guest_.pages.at(run.begin));
  }
  std::vector<SampledPage> sample(std::size_t, std::uint64_t) const override {
    std::vector<SampledPage> sample;
    for (const auto& [offset, page] : guest_.pages) sample.push_back({offset, page});
    return sample;
  }

 private:
  FakeGuest& guest_;
};

class FakeVm : public Vm {
 public:
  explicit FakeVm(FakeGuest& guest) : guest_(guest), memory_(guest) { *guest.exit.lock() = std::nullopt; }
  void cont() override {
    guest_.call("cont");
    guest_.is_held = false;
  }
  void stop() override { guest_.call("stop"); }
  bool power_down(const Patience&) override {
    guest_.call("power down");
    return exit().has_value();
  }
  Bytes save_device_state() override {
    guest_.call("save");
    return guest_.device_state;
  }
  VmMemory& memory() noexcept override { return memory_; }
  bool agent_listens() override { return false; }
  GuestAgent& agent() noexcept override { std::abort(); }
  void set_link(bool up) override { guest_.is_cable_in = up; }
  void quit() override {
    guest_.call("quit");
    *guest_.exit.lock() = VmExit{VmExit::Reason::kQuit, ""};
  }
  void kill(const std::function<void()>& let_go) override {
    if (let_go) let_go();
    guest_.call("kill");
    *guest_.exit.lock() = VmExit{VmExit::Reason::kKilled, ""};
  }
  VmStatus status(const Patience&) override {
    if (guest_.fails.contains("status")) throw Error(ErrorKind::kVm, "no answer");
    return {"running", true};
  }
  bool held_by_io_error() const override { return guest_.is_held; }
  bool guest_panicked() const override { return false; }
  pid_t pid() const noexcept override { return 0; }
  std::shared_ptr<SerialConsole> console() const noexcept override { return nullptr; }
  std::filesystem::path vnc_socket() const override { return {}; }
  const VmStamp& stamp() const noexcept override { return guest_.stamp; }
  std::optional<VmExit> exit() const override { return *guest_.exit.lock(); }
  std::optional<VmExit> wait_exit(const Patience& patience) const override {
    guest_.call("wait");
    if (!exit()) sleep_unless_stopped(patience.timeout, patience.stop);
    if (patience.stop.stop_requested()) throw Error(ErrorKind::kCancelled, "stopped");
    return exit();
  }

 private:
  FakeGuest& guest_;
  FakeMemory memory_;
};

/// A mount of empty ordinary files, which no process has open.
class FakeMount : public Mount {
 public:
  FakeMount(FakeGuest& guest, fs::path directory, const std::vector<MountedFile>& files, bool immutable)
      : guest_(guest), directory_(std::move(directory)) {
    guest_.call("mount");
    for (const MountedFile& file : files) {
      guest_.mounted.push_back(file.name);
      guest_.images[file.name] = file.image;
      replace_file(directory_ / file.name, {});
    }
    guest_.is_immutable = immutable;
  }
  ~FakeMount() override {
    guest_.calls.emplace_back("unmount");
    guest_.images.clear();
    for (const std::string& name : std::exchange(guest_.mounted, {})) fs::remove(directory_ / name);
  }
  FakeMount(const FakeMount&) = delete;
  FakeMount& operator=(const FakeMount&) = delete;
  void start() override {}
  bool ended() const override { return false; }
  void wait(std::stop_token) override {}
  std::uint64_t open_files() const override { return 0; }
  void refuse_writers() override {}
  void admit_writers() override {}

 private:
  FakeGuest& guest_;
  fs::path directory_;
};

class FakeHost : public VmHost {
 public:
  explicit FakeHost(FakeGuest& guest) : guest_(guest) {}
  Accelerator choose_accelerator(const std::string&, const fs::path&) override { return {"tcg", "a test"}; }
  VmStamp stamp(const VmSettings&, const Accelerator&) override { return guest_.stamp; }
  std::unique_ptr<Vm> start_paused(const VmSettings&, const VmFiles& files, const Accelerator&,
                                   const QemuOptions& options, const std::optional<Bytes>& device_state) override {
    guest_.is_isolated = files.isolate_network;
    guest_.patience = options.patience;
    guest_.call(device_state ? "load" : "boot");
    if (device_state) guest_.device_state = *device_state;
    return std::make_unique<FakeVm>(guest_);
  }
  std::unique_ptr<Mount> make_mount(const fs::path& directory, std::vector<MountedFile> files,
                                    std::function<std::string()>, const MountOptions& options) override {
    return std::make_unique<FakeMount>(guest_, directory, files, options.immutable);
  }

 private:
  FakeGuest& guest_;
};

}  // namespace isr::test
