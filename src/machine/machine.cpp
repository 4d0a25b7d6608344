#include "machine/machine.h"

#include <fmt/format.h>

#include "base/log.h"
#include "machine/machine_files.h"
#include "machine/page_cache.h"
#include "machine/run_directory.h"

namespace isr {
namespace {

constexpr std::chrono::seconds kSetClock{10};
constexpr std::chrono::seconds kLongestStatus{2};  // a status must be answered within 5 s in all

std::string state_of(Vm& vm) {
  try {
    return vm.status({kLongestStatus, {}}).state;
  } catch (const Error& error) {
    log::warn("{}", error.what());
    return "not answering";
  }
}

}  // namespace

Machine::Machine(Session& session, const Paths& paths, std::string name, std::string parcel_id,
                 std::function<std::string()> stats_json, std::shared_ptr<VmHost> host)
    : session_(session),
      paths_(paths),
      name_(std::move(name)),
      parcel_id_(std::move(parcel_id)),
      run_directory_(vm_directory(paths, parcel_id_)),
      host_(std::move(host)),
      disks_({.session = session,
              .paths = paths_,
              .name = name_,
              .parcel_id = parcel_id_,
              .stats_json = std::move(stats_json),
              .guest_pid = [this] { return running() ? std::optional(vm_->pid()) : std::nullopt; },
              .host = host_}),
      memory_(session, disks_.directory() / kMemoryFileName) {}

Machine::~Machine() {
  session_.cancel();  // reads that wait for the network would block the unmount
  release_vm();
}

QemuOptions Machine::qemu_options(const std::string& memory) const {
  QemuOptions options = make_run_directory(run_directory_, memory);
  options.on_event = [](const VmEvent& event) {
    if (event.kind == VmEventKind::kIoError) log::error("the guest is held: {}", event.detail);
    if (event.kind == VmEventKind::kGuestPanicked) log::warn("the guest's kernel has panicked");
  };
  return options;
}

void Machine::choose_accelerator(const std::string& configured, bool resume) {
  const SessionState& state = session_.state();
  accelerator_ =
      host_->choose_accelerator(resume ? state.stamp.value().accelerator : configured, runtime_directory(paths_));
  if (!resume) return;
  if (const auto why = why_incompatible(*state.stamp, host_->stamp(state.vm, accelerator_))) {
    throw Error(ErrorKind::kVm, fmt::format("the memory of {} cannot be loaded here: {}", name_, *why),
                {fmt::format("isr start {}    boots from its disks and drops the memory", name_)});
  }
  accelerator_.reason = "the one it was suspended with";
}

bool Machine::start(const BootOptions& options) {
  if (running()) throw Error(ErrorKind::kVm, fmt::format("{} is running already", name_));
  if (const auto how = reap()) log::warn("{}", *how);  // reap() has dropped its memory
  const SessionState& state = session_.state();
  const bool resume = state.phase == SessionPhase::kSuspended && !options.fresh;
  const NetworkMode network_before = state.vm.network;
  VmSettings settings = state.vm;
  settings.network = options.network.value_or(state.vm.network);
  choose_accelerator(options.accelerator, resume);
  if (resume) session_.prefetch().prepare(options.prefetch, options.progress, options.stop);
  disks_.unmount();
  const std::uint64_t journal_before = session_.images().journal_bytes();
  prefetch_ = resume ? options.prefetch : Prefetch::kNone;
  try {
    MountedFile memory = memory_.begin(!resume);
    if (resume) session_.prefetch().begin_fill(options.prefetch);
    disks_.mount_for_guest(std::move(memory));
    VmFiles files = vm_files(parcel_id_, session_.images().disks(), disks_.directory());
    files.isolate_network = options.isolate_network;
    // A resumed guest gets no CD. A version does not hold one, and a guest that has read from a CD would take another
    // image in its place for damage.
    if (!resume) files.cdrom = options.cdrom;
    const QemuOptions qemu = qemu_options(options.memory);
    std::optional<Bytes> device_state;
    if (resume) device_state = session_.memory().device_state();
    vm_ = host_->start_paused(settings, files, accelerator_, qemu, device_state);
    memory_.attach(*vm_);
    set_network(settings.network, options.isolate_network);
    *console_.lock() = vm_->console();
    // The kernel may write all of the guest's memory to our scratch file at any time.
    if (vm_->memory().mapping() == MemoryMapping::kShared) session_.memory().require_room(state.vm.memory_bytes);
    if (resume) session_.prefetch().wait_for_pack(options.progress, options.stop);
    if (options.stop.stop_requested()) throw Error(ErrorKind::kCancelled, "interrupted before the guest ran");
    if (options.before_run) options.before_run();
    // Write this down before cont(): from the guest's first instruction on, the suspended memory no longer fits the
    // disks.
    session_.keep_network(settings.network);
    session_.memory().begin_run(!resume);
    cont();
  } catch (...) {
    release_vm();
    session_.take_back_network(network_before);
    try {
      if (resume && session_.images().journal_bytes() != journal_before) {
        session_.memory().drop();  // the guest ran for a moment although QEMU reported an error, and wrote
      } else {
        session_.memory().undo_run(!resume);
      }
      session_.write_state_if_behind();
    } catch (const std::exception& error) {
      log::warn("{}", error.what());  // the state file still says running, as after a crash
    }
    disks_.try_to_mount();
    throw;
  }
  memory_.guest_runs();
  if (resume) begin_awakening();
  return resume;
}

/// Takes the network cable out in mode kNone, also after a resume, because the saved device state says whether the
/// cable was in. In the other modes begin_awakening() puts it in.
void Machine::set_network(NetworkMode mode, bool isolated) {
  if (mode == NetworkMode::kNone) vm_->set_link(false);
  network_ = isolated ? std::min(mode, NetworkMode::kRestricted) : mode;
}

void Machine::begin_awakening() {
  WakingGuest guest;
  if (network_ != NetworkMode::kNone) guest.set_link = [vm = vm_.get()](bool up) { vm->set_link(up); };
  guest.agent_listens = [vm = vm_.get()] { return vm->agent_listens(); };
  guest.set_clock = [vm = vm_.get()](const Patience& patience) {
    return vm->agent().greet(patience) &&
           vm->agent().set_time(std::chrono::system_clock::now(), {kSetClock, patience.stop});
  };
  awakening_ = std::make_unique<Awakening>(std::move(guest));
  awakening_->go_on();
}

void Machine::cont() {
  stands_still_ = true;
  session_.make_state_certain();  // else a crash could bring back an older state file, and with it an older guest
  vm_->cont();
  stands_still_ = false;
}

/// Lets the guest run on after a failure while it was paused. Nothing is lost.
void Machine::go_on() noexcept {
  try {
    cont();
    if (awakening_) awakening_->go_on();
  } catch (const std::exception& error) {
    log::error("the guest is still paused: {}", error.what());
  }
}

/// SIGKILL takes effect only once our mount has answered QEMU's requests. Those may wait for the network or for disk
/// space, so both waits are ended.
void Machine::kill_vm() {
  vm_->kill([this] {
    session_.interrupt_reads();
    memory_.give_up();
  });
}

void Machine::release_vm() {
  awakening_.reset();
  try {
    if (vm_ && !vm_->exit()) kill_vm();
  } catch (const std::exception& error) {
    log::error("{}", error.what());
  }
  vm_.reset();
  disks_.unmount();
  memory_.end();
}

void Machine::suspend() {
  if (!running()) throw Error(ErrorKind::kVm, fmt::format("{} is not running", name_));
  session_.prefetch().end_fill();
  if (awakening_) awakening_->pause();
  try {
    vm_->stop();
    MachineMoment moment;
    moment.stamp = vm_->stamp();
    moment.device_state = vm_->save_device_state();
    memory_.copy_changed();
    moment.memory.own = vm_->memory().changed();
    memory_.sample(moment.memory);
    session_.memory().keep(moment);
  } catch (...) {
    go_on();
    session_.prefetch().begin_fill(prefetch_);
    throw;
  }
  try {
    vm_->quit();
  } catch (const Error& error) {
    log::warn("{}", error.what());  // everything is kept, so release_vm() may kill QEMU
  }
  release_vm();
}

MachineMoment Machine::checkpoint(const std::function<void()>& freeze) {
  struct Copying {
    MachineMemory& memory;
    ~Copying() { memory.end_copy(); }
  };
  MachineMoment moment;
  {
    const Copying copying{memory_};
    memory_.copy_ahead();
    disks_.write_back();
    moment.stamp = vm_->stamp();
    if (awakening_) awakening_->pause();
    const auto began = std::chrono::steady_clock::now();
    try {
      vm_->stop();
      moment.device_state = vm_->save_device_state();
      memory_.copy_changed();
      memory_.sample(moment.memory);
      freeze();
    } catch (...) {
      go_on();
      throw;
    }
    cont();
    last_pause_ = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - began);
    if (awakening_) awakening_->go_on();
  }
  moment.memory.own = vm_->memory().changed();  // while writes are tracked, this lists too many pages
  return moment;
}

void Machine::drop_page_cache() {
  if (!running()) return;
  if (awakening_) awakening_->pause();  // the agent serves one caller at a time
  isr::drop_page_cache(*vm_, [this] { return memory_.given_back_bytes(); });
}

void Machine::read_around_if_due() {
  if (running()) memory_.read_around_if_due();
}

VmStats Machine::stats() const {
  return {.pid = vm_->pid(),
          .state = state_of(*vm_),
          .io_error = vm_->held_by_io_error(),
          .guest_panicked = vm_->guest_panicked(),
          .accelerator = accelerator_,
          .memory = std::string(to_name(vm_->memory().mapping())),
          .awakening = awakening_ ? awakening_->words() : std::string(),
          .vnc_socket = vm_->vnc_socket()};
}

bool Machine::power_down(const Patience& patience) { return !running() || vm_->power_down(patience); }

void Machine::power_off() {
  if (vm_) kill_vm();
  release_vm();
  session_.memory().drop();
}

bool Machine::go_on_if_held() {
  const bool was_left_standing = stands_still_;
  if (!running() || (!was_left_standing && !vm_->held_by_io_error())) return false;
  cont();
  if (was_left_standing && awakening_) awakening_->go_on();
  return true;
}

std::optional<std::string> Machine::reap() {
  if (!vm_) return std::nullopt;
  const auto ended = vm_->exit();
  if (!ended) return std::nullopt;
  release_vm();
  try {
    session_.memory().drop();
  } catch (const std::exception& error) {
    log::warn("{}", error.what());  // the state file still says running; the next session then drops the memory
  }
  disks_.try_to_mount();
  return ended->reason == VmExit::Reason::kGuestShutdown ? "the guest switched itself off"
                                                         : "QEMU has died: " + ended->detail;
}

}  // namespace isr
