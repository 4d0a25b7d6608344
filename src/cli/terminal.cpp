// Keyboard signals are off while we ask. A Ctrl-C then arrives as a character, so that the terminal is never left
// without echo.
#include "cli/terminal.h"

#include <fcntl.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>

#include "base/crypto.h"
#include "base/error.h"
#include "base/handle.h"

namespace isr {
namespace {

constexpr std::size_t kMaxLine = 1U << 20U;
constexpr char kCtrlC = 3;
constexpr char kCtrlD = 4;
constexpr char kBackspace = 8;
constexpr char kKillLine = 21;
constexpr char kDelete = 127;

class RawTerminal {
 public:
  explicit RawTerminal(int fd) : fd_(fd) {
    changed_ = ::tcgetattr(fd, &before_) == 0;
    if (!changed_) return;
    termios raw = before_;
    raw.c_lflag &= static_cast<tcflag_t>(~static_cast<tcflag_t>(ECHO | ICANON | ISIG));
    raw.c_cc[VMIN] = 1;
    raw.c_cc[VTIME] = 0;
    // DRAIN, not FLUSH, to keep text that was typed ahead, or written by a script on a pty.
    ::tcsetattr(fd, TCSADRAIN, &raw);
  }
  ~RawTerminal() {
    if (changed_) ::tcsetattr(fd_, TCSADRAIN, &before_);
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;

 private:
  int fd_;
  bool changed_ = false;
  termios before_{};
};

void say(int fd, std::string_view text) {
  const ssize_t ignored = ::write(fd, text.data(), text.size());
  static_cast<void>(ignored);
}

/// Removes the last character, which may have several bytes. Returns false when there is none.
bool erase_last(SecretText& line) {
  if (line.empty()) return false;
  while (line.size() > 1 && (static_cast<unsigned char>(line.view().back()) & 0xC0U) == 0x80) line.pop_back();
  line.pop_back();
  return true;
}

SecretText read_line(int fd, Echo echo) {
  SecretText line;
  for (;;) {
    char c = 0;
    const ssize_t n = ::read(fd, &c, 1);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0 || c == kCtrlC || (c == kCtrlD && line.empty())) {
      say(fd, "\n");
      throw Error(ErrorKind::kCancelled, "interrupted");
    }
    if (c == '\n' || c == '\r') break;
    if (c == kBackspace || c == kDelete) {
      if (erase_last(line) && echo == Echo::kShown) say(fd, "\b \b");
    } else if (c == kKillLine) {
      while (erase_last(line)) {
        if (echo == Echo::kShown) say(fd, "\b \b");
      }
    } else {
      line.append({&c, 1});
      if (echo == Echo::kShown) say(fd, std::string_view(&c, 1));
    }
    if (line.size() > kMaxLine) throw Error(ErrorKind::kUsage, "the answer is longer than 1 MiB");
  }
  say(fd, "\n");
  return line;
}

}  // namespace

bool has_terminal() { return UniqueFd(::open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY)).get() >= 0; }

std::optional<SecretText> ask_terminal(const std::string& question, Echo echo) {
  const UniqueFd terminal(::open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY));
  if (!terminal) return std::nullopt;
  const RawTerminal raw(terminal.get());
  say(terminal.get(), question);
  return read_line(terminal.get(), echo);
}

}  // namespace isr
