// The thread that forks also waits for the child's end. The kernel sends the parent death signal when the *thread* that
// forked ends, so that thread must outlive the child.
#include "base/child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <future>

#include "base/error.h"
#include "base/find_program.h"

namespace isr {
namespace {

constexpr int kFirstSafeFd = 64;  // sources move to numbers from here on, so that no dup2 overwrites one
constexpr std::size_t kKeptOutput = 65536;
constexpr std::size_t kMaxShown = 300;
constexpr int kExecFailed = 127;

/// All data that the child needs between fork and exec, where only system calls are allowed.
struct Launch {
  const char* program;
  std::vector<char*> arguments;
  std::vector<char*> environment;
  const char* directory;
  std::vector<int> sources;  ///< become 0, 1, 2, 3, …
  int report_fd;             ///< receives errno when exec fails
  pid_t parent;
  int death_signal;
  sigset_t blocked;
  bool gains_no_rights;
  bool refuse_huge_pages;  ///< with a seccomp filter, which requires no_new_privs
};

/// Makes madvise(MADV_HUGEPAGE) fail. QEMU asks for huge pages on its memory. On a file mapping each page fault then
/// reads 2 MiB or more, but a resume wants single chunks. QEMU ignores the failure. Remove this when QEMU has an option
/// for it.
void refuse_huge_pages() noexcept {
  std::array<sock_filter, 8> code = {{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 5),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_madvise, 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args[2])),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_HUGEPAGE, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/// Lets the kernel kill QEMU before the daemon, which holds the data, when memory runs out.
void volunteer_for_oom() noexcept {
  const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  [[maybe_unused]] const ssize_t written = ::write(fd, "500", 3);
  ::close(fd);
}

[[noreturn]] void run_child(const Launch& launch) noexcept {
  ::prctl(PR_SET_PDEATHSIG, launch.death_signal);
  if (::getppid() != launch.parent) ::_exit(kExecFailed);  // the parent died before prctl()
  ::setsid();                                              // Ctrl-C in a terminal must reach only the command
  ::sigprocmask(SIG_SETMASK, &launch.blocked, nullptr);
  ::signal(SIGPIPE, SIG_DFL);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  volunteer_for_oom();
  ::umask(0077);
  bool ready = ::chdir(launch.directory) == 0;
  for (std::size_t i = 0; ready && i < launch.sources.size(); ++i)
    ready = ::dup2(launch.sources[i], static_cast<int>(i)) >= 0;
  ::syscall(SYS_close_range, static_cast<unsigned>(launch.sources.size()), ~0U, 4U /* CLOSE_RANGE_CLOEXEC */);
  if (launch.gains_no_rights && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && launch.refuse_huge_pages)
    refuse_huge_pages();
  if (ready) ::execve(launch.program, launch.arguments.data(), launch.environment.data());
  const int failure = errno;
  [[maybe_unused]] const ssize_t written = ::write(launch.report_fd, &failure, sizeof failure);
  ::_exit(kExecFailed);
}

std::string path_of(const std::string& program) {
  if (program.find('/') != std::string::npos) return program;
  if (const auto found = find_program(program)) return found->string();
  throw Error(ErrorKind::kVm, fmt::format("{} is not installed", program),
              {"on Debian:  sudo apt install qemu-system-x86"});
}

UniqueFd moved_up(int fd) {
  UniqueFd out(::fcntl(fd, F_DUPFD_CLOEXEC, kFirstSafeFd));
  if (!out) throw_errno("a descriptor for a child process", errno);
  return out;
}

std::pair<UniqueFd, UniqueFd> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw_errno("pipe", errno);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (auto& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

/// Forks and waits until exec is done. Returns the pid, or minus errno.
pid_t spawn(Launch launch, UniqueFd report_read, UniqueFd report_write) {
  launch.report_fd = report_write.get();
  const pid_t pid = ::fork();
  if (pid < 0) return -errno;
  if (pid == 0) run_child(launch);
  report_write.reset();
  int failure = 0;
  ssize_t got = 0;
  do {
    got = ::read(report_read.get(), &failure, sizeof failure);
  } while (got < 0 && errno == EINTR);
  if (got != sizeof failure) return pid;  // exec closed the pipe
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  return -failure;
}

}  // namespace

ChildProcess::~ChildProcess() { kill(); }

void ChildProcess::start(ChildOptions options) {
  const std::string program = path_of(options.program);
  std::vector<std::string> arguments{program};
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  // The child gets a minimal environment, because ours may hold a token.
  std::vector<std::string> environment{"PATH=/usr/bin:/bin", "LC_ALL=C"};
  environment.insert(environment.end(), options.environment.begin(), options.environment.end());

  auto [output, output_write] = make_pipe();
  auto [report_read, report_write] = make_pipe();
  std::vector<UniqueFd> sources;
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  sources.push_back(moved_up(null.get()));
  sources.push_back(moved_up(output_write.get()));
  sources.push_back(moved_up(output_write.get()));
  for (const auto& fd : options.descriptors) sources.push_back(moved_up(fd.get()));

  Launch launch{program.c_str(),
                pointers(arguments),
                pointers(environment),
                options.directory.c_str(),
                {},
                -1,
                ::getpid(),
                options.death_signal,
                {},
                !options.runs_fusermount,
                options.refuse_huge_pages};
  ::sigemptyset(&launch.blocked);
  for (const int signal : options.blocked_signals) ::sigaddset(&launch.blocked, signal);
  for (const auto& fd : sources) launch.sources.push_back(fd.get());
  UniqueFd safe_report = moved_up(report_write.get());
  report_write.reset();

  std::promise<pid_t> started;
  auto result = started.get_future();
  watcher_ = std::jthread([this, launch = std::move(launch), promise = std::move(started),
                           report_from = std::move(report_read), report_to = std::move(safe_report),
                           output_fd = std::move(output), on_exit = std::move(options.on_exit)]() mutable {
    const pid_t pid = spawn(std::move(launch), std::move(report_from), std::move(report_to));
    pid_ = pid;
    promise.set_value(pid);  // the data that `launch` points to is gone from here on
    if (pid < 0) return;
    watch(output_fd.get());
    if (on_exit) on_exit();
    state_.lock()->finished = true;
    ended_.notify_all();
  });
  if (const pid_t pid = result.get(); pid < 0)
    throw Error(ErrorKind::kVm, fmt::format("cannot run {}: {}", program, std::strerror(-pid)));
}

void ChildProcess::watch(int output_fd) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  std::array<pollfd, 2> wanted = {{{process.get(), POLLIN, 0}, {output_fd, POLLIN, 0}}};
  // Without pidfd (before kernel 5.3) the end of the child's output stands for its exit. QEMU has no children of its
  // own that could keep the output open.
  while (wanted[0].fd >= 0 || wanted[1].fd >= 0) {
    if (::poll(wanted.data(), wanted.size(), -1) < 0) continue;
    if (wanted[1].revents != 0 && !take_output(output_fd)) wanted[1].fd = -1;
    if (wanted[0].revents != 0) break;
  }
  while (wanted[1].fd >= 0 && ::poll(&wanted[1], 1, 0) > 0 && take_output(output_fd)) {
  }
  siginfo_t info{};
  while (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) < 0 && errno == EINTR) {
  }
  auto state = state_.lock();  // serialises kill() with reaping
  int status = 0;
  ::waitpid(pid_, &status, 0);
  state->status = status;
}

bool ChildProcess::take_output(int output_fd) {
  std::array<char, 4096> buffer{};
  const ssize_t got = ::read(output_fd, buffer.data(), buffer.size());
  if (got < 0) return errno == EINTR;
  auto state = state_.lock();
  state->output.append(buffer.data(), static_cast<std::size_t>(got));
  if (state->output.size() > kKeptOutput) state->output.erase(0, state->output.size() - kKeptOutput);
  return got > 0;
}

void ChildProcess::kill() noexcept {
  auto state = state_.lock();
  if (pid_ > 0 && !state->status) ::kill(pid_, SIGKILL);
}

std::optional<int> ChildProcess::wait_exit(const Patience& patience) const {
  auto state = state_.lock();
  if (ended_.wait_for(state.mutex_lock(), patience.stop, patience.timeout, [&] { return state->finished; }))
    return state->status;
  if (patience.stop.stop_requested()) throw Error(ErrorKind::kCancelled, "cancelled while the VM ended");
  return std::nullopt;
}

std::optional<int> ChildProcess::exit_status() const { return state_.lock()->status; }
std::string ChildProcess::output() const { return state_.lock()->output; }

std::string ChildProcess::last_words() const {
  std::string text = output();
  while (!text.empty() && static_cast<unsigned char>(text.back()) <= ' ') text.pop_back();
  // Finds "qemu-system-x86_64: -blockdev …: the reason", perhaps with a hint on the next line.
  auto begin = text.rfind("\nqemu-");
  begin = begin == std::string::npos ? (text.starts_with("qemu-") ? 0 : text.rfind('\n') + 1) : begin + 1;
  std::string words = text.substr(begin);
  if (const auto colon = words.find(": "); words.starts_with("qemu-") && colon != std::string::npos)
    words.erase(0, colon + 2);
  for (char& c : words) {
    if (c == '\n') c = ' ';
    if (static_cast<unsigned char>(c) < ' ' || c == '\x7f') c = '?';
  }
  return words.substr(0, kMaxShown);
}

std::string describe_status(int status) {
  if (WIFSIGNALED(status))
    return fmt::format("killed by signal {} ({})", WTERMSIG(status), ::sigdescr_np(WTERMSIG(status)));
  return fmt::format("exit code {}", WEXITSTATUS(status));
}

}  // namespace isr
