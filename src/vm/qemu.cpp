// The order in which the parts of one QEMU end: the child's watcher thread sees the end first, waits until the QMP
// reader has taken in QEMU's last events, and only then reports how it ended. That is why the child is destroyed before
// the other members.
#include "vm/qemu.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/child_process.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/stream_socket.h"
#include "vm/json_members.h"

namespace isr {
namespace {

using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr seconds kEndGrace{10};  // time for the remaining work after QEMU has ended
constexpr milliseconds kDeathGlance{100};
constexpr seconds kPowerButtonEvery{5};  // a press before the guest listens is lost, so presses are repeated
constexpr const char* kStateName = "device-state";
constexpr const char* kStateUri = "fd:device-state";
constexpr const char* kStateFile = "the VM's device state";
constexpr std::uint64_t kNoBandwidthLimit = 1ULL << 40U;

/// Makes a file of at most kMaxDeviceState that exists only in memory. Writing past the seal fails, so a QEMU that
/// sends too much fails early.
UniqueFd make_state_file() {
  UniqueFd fd(::memfd_create("isr-device-state", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ::ftruncate(fd.get(), kMaxDeviceState) != 0 || ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW) != 0)
    throw_errno(kStateFile, errno);
  return fd;
}

}  // namespace

struct Qemu::Impl {
  Impl() = default;
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  QemuOptions options;
  VmStamp stamp;
  Sync<VmFacts> facts;
  mutable std::condition_variable_any changed;
  std::shared_ptr<SerialConsole> console;
  std::unique_ptr<GuestAgent> agent;
  std::unique_ptr<QmpClient> qmp;
  std::optional<GuestMemory> memory;
  ChildProcess child;

  static std::unique_ptr<Impl> launch(const VmSettings& settings, const VmFiles& files, const Accelerator& accelerator,
                                      const QemuOptions& options, VmBegin how);
  void begin(const VmSettings& settings, const VmFiles& files, const Accelerator& accelerator, VmBegin how);
  Json ask(const std::string& command, const Json& arguments = Json()) {
    return ask(command, arguments, options.patience);
  }
  Json ask(const std::string& command, const Json& arguments, const Patience& patience);
  void prepare_migration();
  void give_state_file(int fd);
  void await_migration(std::string_view what);
  void await_postmigrate();
  void cancel_migration() const;
  void on_qmp_event(const QmpEvent& event);
  void on_child_exit();
  void tell(VmEventKind kind, std::string detail = {}) {
    if (options.on_event && !facts.lock()->discarded) options.on_event({kind, std::move(detail)});
  }
  [[noreturn]] void throw_ended(const Error& error) const;
};

void Qemu::Impl::begin(const VmSettings& settings, const VmFiles& files, const Accelerator& accelerator, VmBegin how) {
  stamp = {VmStamp::kDeviceLayout, {},
           settings.machine,       settings.cpu_model,
           accelerator.name,       accelerator.name == "kvm" ? host_cpu_vendor() : std::string()};
  make_private_directory(options.run_directory);
  remove_if_exists(options.run_directory / kVncSocketName);  // left by a QEMU that was killed

  auto [qmp_here, qmp_there] = make_socket_pair();
  auto [serial_here, serial_there] = make_socket_pair();
  auto [agent_here, agent_there] = make_socket_pair();
  agent = std::make_unique<GuestAgent>(std::move(agent_here));
  console = std::make_shared<SerialConsole>(std::move(serial_here), options.console_bytes);
  qmp = std::make_unique<QmpClient>(std::move(qmp_here), [this](const QmpEvent& event) { on_qmp_event(event); });

  ChildOptions launch;
  launch.program = options.program;
  launch.arguments = qemu_arguments(settings, files, accelerator.name, how);
  launch.directory = options.run_directory;
  launch.descriptors.push_back(std::move(qmp_there));  // kQmpFd, kSerialFd, kAgentFd
  launch.descriptors.push_back(std::move(serial_there));
  launch.descriptors.push_back(std::move(agent_there));
  launch.on_exit = [this] { on_child_exit(); };
  // A log-out or shutdown sends these to every process of isr, and QEMU would switch the guest off. isr suspends it
  // instead.
  launch.blocked_signals = {SIGTERM, SIGINT, SIGHUP};
  const auto wanted = how == VmBegin::kPaused ? MemoryMapping::kZeros : MemoryMapping::kPrivate;
  memory.emplace(files.memory, options.private_memory ? wanted : MemoryMapping::kShared, launch);
  child.start(std::move(launch));
  console->start();
  try {
    stamp.qemu_version = qmp->handshake(options.patience);
  } catch (const Error& error) {
    throw_ended(error);
  }
  memory->find(child.pid());
}

/// Starts QEMU. If only QEMU could read its private mapping, the contents would be lost with it, so such a host gets
/// the shared one.
std::unique_ptr<Qemu::Impl> Qemu::Impl::launch(const VmSettings& settings, const VmFiles& files,
                                               const Accelerator& accelerator, const QemuOptions& options,
                                               VmBegin how) {
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->begin(settings, files, accelerator, how);
  if (impl->memory->is_readable()) return impl;
  impl->facts.lock()->discarded = true;
  impl.reset();
  QemuOptions shared = options;
  shared.private_memory = false;
  return launch(settings, files, accelerator, shared, how);
}

/// Explains a failed conversation. When QEMU is gone, its last message says more than `error`.
void Qemu::Impl::throw_ended(const Error& error) const {
  if (error.kind() != ErrorKind::kVm || !qmp->ended()) throw error;
  const auto status = child.wait_exit({kEndGrace, {}});
  if (!status) throw error;
  const auto words = child.last_words();
  throw Error(ErrorKind::kVm, fmt::format("QEMU has ended: {}", words.empty() ? describe_status(*status) : words));
}

Json Qemu::Impl::ask(const std::string& command, const Json& arguments, const Patience& patience) {
  try {
    return qmp->execute(command, arguments, patience);
  } catch (const Error& error) {
    throw_ended(error);
  }
}

void Qemu::Impl::prepare_migration() {
  facts.lock()->migration.clear();
  ask("migrate-set-capabilities", {{"capabilities", Json::array({{{"capability", "x-ignore-shared"}, {"state", true}},
                                                                 {{"capability", "events"}, {"state", true}}})}});
}

void Qemu::Impl::give_state_file(int fd) {
  try {
    qmp->send_fd(kStateName, fd, options.patience);
  } catch (const Error& error) {
    throw_ended(error);
  }
}

void Qemu::Impl::await_migration(std::string_view what) {
  const auto finished = [](const VmFacts& f) {
    return f.migration == "completed" || f.migration == "failed" || f.migration == "cancelled" || f.exiting;
  };
  std::string result;
  {
    auto state = facts.lock();
    changed.wait_for(state.mutex_lock(), options.patience.stop, options.patience.timeout,
                     [&] { return finished(*state); });
    result = state->exiting ? "exiting" : state->migration;
  }
  if (result == "completed") return;
  if (result != "exiting" && result != "failed") cancel_migration();
  if (options.patience.stop.stop_requested())
    throw Error(ErrorKind::kCancelled, fmt::format("cancelled while {}", what));
  if (result == "exiting") throw_ended(Error(ErrorKind::kVm, fmt::format("QEMU ended while {}", what)));
  const auto why = text_member(ask("query-migrate"), "error-desc");
  throw Error(ErrorKind::kVm,
              fmt::format("QEMU failed while {}: {}", what, why.empty() ? "it did not finish in time" : why));
}

/// QEMU reports "completed" shortly before the machine leaves "finish-migrate", and until then refuses cont.
void Qemu::Impl::await_postmigrate() {
  const auto deadline = std::chrono::steady_clock::now() + options.patience.timeout;
  while (text_member(ask("query-status"), "status") == "finish-migrate") {
    if (options.patience.stop.stop_requested())
      throw Error(ErrorKind::kCancelled, "cancelled while saving the device state");
    if (std::chrono::steady_clock::now() > deadline) {
      throw Error(ErrorKind::kVm, "QEMU did not finish saving the device state in time");
    }
    std::this_thread::sleep_for(milliseconds(1));
  }
}

/// Lets the VM go on. Logs a failure, because the caller reports one already.
void Qemu::Impl::cancel_migration() const {
  try {
    qmp->execute("migrate_cancel", {kEndGrace, {}});
  } catch (const Error& error) {
    log::warn("giving up on saving the VM's state: {}", error.what());
  }
}

void Qemu::Impl::on_qmp_event(const QmpEvent& event) {
  const std::optional<VmEvent> news = facts.lock()->take_in(event);
  changed.notify_all();
  if (news) tell(news->kind, news->detail);
}

void Qemu::Impl::on_child_exit() {
  qmp->wait_ended({kEndGrace, {}});
  const std::string last_words = child.last_words();
  const VmExit exit = facts.lock()->end(child.exit_status().value_or(0), last_words);
  changed.notify_all();
  tell(VmEventKind::kExited, exit.detail);
}

Qemu::Impl::~Impl() {
  facts.lock()->kill_asked = true;
  child.kill();
}

Qemu::Qemu(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Qemu::~Qemu() = default;

std::unique_ptr<Qemu> Qemu::start_paused(const VmSettings& settings, const VmFiles& files,
                                         const Accelerator& accelerator, const QemuOptions& options) {
  return std::unique_ptr<Qemu>(new Qemu(Impl::launch(settings, files, accelerator, options, VmBegin::kPaused)));
}

std::unique_ptr<Qemu> Qemu::resume_paused(const VmSettings& settings, const VmFiles& files,
                                          const Accelerator& accelerator, const QemuOptions& options,
                                          ByteView device_state) {
  if (device_state.size() > kMaxDeviceState) throw Error(ErrorKind::kCorrupt, "the VM's device state is too long");
  std::unique_ptr<Qemu> out(new Qemu(Impl::launch(settings, files, accelerator, options, VmBegin::kIncoming)));
  Impl& impl = *out->impl_;
  impl.prepare_migration();
  const UniqueFd file = make_state_file();
  write_all_at(file.get(), device_state, 0, kStateFile);
  impl.give_state_file(file.get());
  impl.ask("migrate-incoming", {{"uri", kStateUri}});
  impl.await_migration("loading the device state");
  return out;
}

void Qemu::cont() {
  impl_->facts.lock()->io_error = false;
  impl_->ask("cont");
}

void Qemu::stop() { impl_->ask("stop"); }

Bytes Qemu::save_device_state() {
  Impl& impl = *impl_;
  if (status().running) throw Error(ErrorKind::kVm, "the VM must be paused before its state is saved");
  impl.prepare_migration();
  impl.ask("migrate-set-parameters", {{"max-bandwidth", kNoBandwidthLimit}});
  const UniqueFd file = make_state_file();
  impl.give_state_file(file.get());
  impl.ask("migrate", {{"uri", kStateUri}});
  impl.await_migration("saving the device state");
  impl.await_postmigrate();
  // QEMU writes through the same open file, so the offset is the end of its data.
  const auto size = ::lseek(file.get(), 0, SEEK_CUR);
  if (size <= 0) throw Error(ErrorKind::kVm, "QEMU saved no device state");
  Bytes out(static_cast<std::size_t>(size));
  read_exact_at(file.get(), out, 0, kStateFile);
  return out;
}

bool Qemu::power_down(const Patience& patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience.timeout;
  for (;;) {
    const auto left = std::chrono::ceil<milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    try {
      impl_->ask("system_powerdown");
    } catch (const Error&) {
      if (!impl_->qmp->ended()) throw;  // else QEMU ended between two presses
    }
    if (const auto ended = wait_exit({std::min<milliseconds>(left, kPowerButtonEvery), patience.stop})) {
      if (ended->reason == VmExit::Reason::kGuestShutdown) return true;
      throw Error(ErrorKind::kVm, fmt::format("QEMU has ended: {}", ended->detail));
    }
  }
}

GuestMemory& Qemu::memory() noexcept { return *impl_->memory; }
bool Qemu::agent_listens() {
  for (const Json& device : impl_->ask("query-chardev")) {
    if (text_member(device, "label") == kAgentName) return bool_member(device, "frontend-open");
  }
  return false;
}

GuestAgent& Qemu::agent() noexcept { return *impl_->agent; }

void Qemu::set_link(bool up) { impl_->ask("set_link", {{"name", kNetworkCardName}, {"up", up}}); }

void Qemu::quit() {
  impl_->facts.lock()->quit_asked = true;
  try {
    impl_->qmp->execute("quit", impl_->options.patience);
  } catch (const Error& error) {
    if (!impl_->qmp->ended()) throw;  // else QEMU ended before it answered
  }
  if (!wait_exit(impl_->options.patience)) throw Error(ErrorKind::kVm, "QEMU did not end in time");
}

void Qemu::kill(const std::function<void()>& let_go) {
  impl_->facts.lock()->kill_asked = true;
  impl_->child.kill();
  const auto deadline = std::chrono::steady_clock::now() + impl_->options.patience.timeout;
  while (!wait_exit({kDeathGlance, {}})) {
    if (std::chrono::steady_clock::now() > deadline) throw Error(ErrorKind::kVm, "QEMU was killed but does not end");
    if (let_go) let_go();
  }
}

VmStatus Qemu::status() { return status(impl_->options.patience); }

VmStatus Qemu::status(const Patience& patience) {
  const Json answer = impl_->ask("query-status", Json(), patience);
  VmStatus out;
  out.state = text_member(answer, "status");
  out.running = bool_member(answer, "running");
  auto state = impl_->facts.lock();
  out.io_error = state->io_error;
  out.guest_panicked = state->guest_panicked;
  return out;
}

bool Qemu::held_by_io_error() const { return impl_->facts.lock()->io_error; }
bool Qemu::guest_panicked() const { return impl_->facts.lock()->guest_panicked; }

pid_t Qemu::pid() const noexcept { return impl_->child.pid(); }
std::shared_ptr<SerialConsole> Qemu::console() const noexcept { return impl_->console; }
std::filesystem::path Qemu::vnc_socket() const { return impl_->options.run_directory / kVncSocketName; }
const VmStamp& Qemu::stamp() const noexcept { return impl_->stamp; }
std::optional<VmExit> Qemu::exit() const { return impl_->facts.lock()->exit; }

std::optional<VmExit> Qemu::wait_exit(const Patience& patience) const {
  if (!impl_->child.wait_exit(patience)) return std::nullopt;
  return exit();
}

}  // namespace isr
