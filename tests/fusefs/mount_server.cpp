// Serves disk.raw (writable), version.raw (read-only) and ram.raw (writable, what fails of it is tried again), all over
// zeros, for one test:
//
//   fusefs_mount_server PARENT-PID DIRECTORY SIZE rw|ro SOURCE-NAME UID
//
// A process of its own, because a client that the kernel makes wait for the mount (munmap() of dirty pages does)
// must not be able to stop the threads that it waits for. It ends with its test however that ends, and never leaves a
// mount.

#include <fmt/format.h>
#include <grp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <thread>

#include "base/file.h"
#include "fusefs/mount.h"
#include "server_protocol.h"
#include "support/memory_overlay.h"

namespace isr::test {
namespace {

constexpr unsigned kLongestEnd_s = 60;

/// A source without objects: the images lie over zeros.
class EmptySource : public ObjectSource {
 public:
  std::optional<Bytes> fetch(const Cid&, Priority, std::stop_token) override { return std::nullopt; }
  std::string describe() const override { return "nothing"; }
};

struct ServedFile {
  ServedFile(const std::string& name, std::uint64_t size, std::shared_ptr<MemoryOverlay> over)
      : overlay(std::move(over)),
        image(std::make_shared<Image>(
            name, TreeRoot{size, {}},
            std::make_shared<ChunkReader>(std::make_shared<EmptySource>(), ReaderOptions{.prefetch_threads = 1}),
            overlay)) {}
  std::atomic<int>& counter(Counter which) const {
    if (!overlay) throw std::logic_error("a read-only file counts nothing");
    switch (which) {
      case Counter::kReads:
        return overlay->reads;
      case Counter::kFlushes:
        return overlay->flushes;
      case Counter::kFailingReads:
        return overlay->failing_reads;
      case Counter::kFailingAllocations:
        return overlay->failing_allocations;
      default:
        return overlay->failing_writes;
    }
  }
  std::shared_ptr<MemoryOverlay> overlay;
  std::shared_ptr<Image> image;
};

class Server {
 public:
  Server(const fs::path& point, std::uint64_t size, const MountOptions& options)
      : files_{ServedFile("disk", size, std::make_shared<MemoryOverlay>()), ServedFile("version", size, nullptr),
               ServedFile("ram", size, std::make_shared<MemoryOverlay>())},
        mount_(make_mount(
            point,
            {{"disk.raw", files_[0].image}, {"version.raw", files_[1].image}, {"ram.raw", files_[2].image, endurance_}},
            [this] { return fmt::format("{{\"asked\":{}}}\n", ++asked_); }, options)) {
    mount_->start();
  }

  std::int64_t answer(const Question& question, ByteView given, Bytes& out) {
    const ServedFile& file = files_.at(static_cast<std::size_t>(question.file));
    switch (question.ask) {
      case Ask::kReady:
        break;
      case Ask::kGet:
        return file.counter(question.counter);
      case Ask::kSet:
        file.counter(question.counter) = static_cast<int>(question.length);
        break;
      case Ask::kLoad:
        out.resize(std::min(question.length, static_cast<std::uint64_t>(kLargestLoad)));
        out.resize(file.image->read(question.offset, out));
        break;
      case Ask::kStore:
        file.image->write(question.offset, given);
        break;
      case Ask::kOpenFiles:
        return static_cast<std::int64_t>(mount_->open_files());
      case Ask::kRefuse:
        mount_->refuse_writers();
        break;
      case Ask::kAdmit:
        mount_->admit_writers();
        break;
      case Ask::kEnded:
        return mount_->ended() ? 1 : 0;
      case Ask::kWait:
        mount_->wait({});
        break;
      case Ask::kStopWaiting: {
        std::jthread waiting([this](const std::stop_token& stop) { mount_->wait(stop); });
        break;  // the thread is asked to stop, and waited for
      }
      case Ask::kHindrances:
        return endurance_->hindrance.lock()->waiting;
      case Ask::kGiveUp:
        endurance_->given_up = true;
        break;
      case Ask::kEnd:
        mount_.reset();
        break;
    }
    return 0;
  }

 private:
  std::array<ServedFile, 3> files_;
  std::shared_ptr<Endurance> endurance_ = std::make_shared<Endurance>();
  std::atomic<int> asked_{0};
  std::unique_ptr<Mount> mount_;
};

void reply(std::int64_t value, ByteView more) {
  const Answer answer{value};
  Bytes packet(sizeof answer + more.size());
  std::memcpy(packet.data(), &answer, sizeof answer);
  std::ranges::copy(more, packet.begin() + sizeof answer);
  ::send(STDIN_FILENO, packet.data(), packet.size(), MSG_NOSIGNAL);
}

/// Answers until the mount was to end; false when the test went away without a word.
bool serve(Server& server) {
  Bytes packet(sizeof(Question) + kLargestLoad);
  for (;;) {
    const ssize_t count = ::recv(STDIN_FILENO, packet.data(), packet.size(), 0);
    if (count < static_cast<ssize_t>(sizeof(Question))) return false;
    Question question;
    std::memcpy(&question, packet.data(), sizeof question);
    Bytes out;
    try {
      const auto given = ByteView(packet).first(static_cast<std::size_t>(count)).subspan(sizeof question);
      const std::int64_t value = server.answer(question, given, out);
      reply(value, out);
    } catch (const std::exception& error) {
      reply(kFailed, as_bytes(error.what()));
    }
    if (question.ask == Ask::kEnd) return true;
  }
}

/// Nobody is left to unmount. On a thread of its own: the main one may be waiting for something.
[[noreturn]] void abandon(const fs::path& point) {
  ::alarm(kLongestEnd_s);
  try {
    unmount(point);
    fs::remove(point);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mount server: %s\n", error.what());
  }
  ::_exit(1);
}

void become(uid_t user) {
  if (user == ::geteuid()) return;
  if (::setgroups(0, nullptr) != 0 || ::setresgid(user, user, user) != 0 || ::setresuid(user, user, user) != 0) {
    throw_errno("becoming another user", errno);
  }
}

int run(const std::vector<std::string>& arguments) {
  const fs::path point = arguments.at(2);
  become(static_cast<uid_t>(std::stoul(arguments.at(6))));
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &wanted, nullptr);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() != std::stoi(arguments.at(1))) return 1;  // it died before
  std::thread([point, wanted] {
    int signal = 0;
    sigwait(&wanted, &signal);
    abandon(point);
  }).detach();

  MountOptions options;
  options.immutable = arguments.at(4) == "ro";
  options.source_name = arguments.at(5);
  std::optional<Server> server;
  try {
    server.emplace(point, std::stoull(arguments.at(3)), options);
  } catch (const std::exception& error) {
    reply(kFailed, as_bytes(error.what()));
    return 1;
  }
  if (serve(*server)) return 0;
  ::kill(::getpid(), SIGTERM);  // as when the parent's death is told first
  for (;;) ::pause();
}

}  // namespace
}  // namespace isr::test

int main(int argc, char** argv) {
  try {
    return isr::test::run({argv, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "mount server: %s\n", error.what());
    return 1;
  }
}
