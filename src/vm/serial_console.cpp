#include "vm/serial_console.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "base/error.h"
#include "base/log.h"
#include "base/stream_socket.h"

namespace isr {
namespace {
constexpr std::size_t kReadSize = 16384;
}  // namespace

SerialConsole::SerialConsole(UniqueFd connected, std::size_t keep_bytes)
    : fd_(std::move(connected)), wake_(make_event()), keep_bytes_(keep_bytes) {}

SerialConsole::~SerialConsole() {
  reader_.request_stop();
  raise_event(wake_);
}

void SerialConsole::start() {
  reader_ = std::jthread([this](const std::stop_token& stop) {
    try {
      read_all(stop);
    } catch (const std::exception& error) {
      log::warn("console of the VM: {}", error.what());
    }
    state_.lock()->ended = true;
    more_.notify_all();
  });
}

SerialConsole::Text SerialConsole::since(std::uint64_t offset, std::size_t max_bytes) const {
  auto state = state_.lock();
  Text out;
  out.offset = std::clamp<std::uint64_t>(offset, state->first, state->first + state->kept.size());
  out.text = state->kept.substr(out.offset - state->first, max_bytes);
  return out;
}

std::uint64_t SerialConsole::said() const {
  auto state = state_.lock();
  return state->first + state->kept.size();
}

bool SerialConsole::wait_beyond(std::uint64_t offset, std::chrono::milliseconds timeout, std::stop_token stop) const {
  auto state = state_.lock();
  const auto more = [&] { return state->first + state->kept.size() > offset; };
  more_.wait_for(state.mutex_lock(), std::move(stop), timeout, [&] { return more() || state->ended; });
  return more();
}

bool SerialConsole::ended() const { return state_.lock()->ended; }

void SerialConsole::write(std::string_view text, std::chrono::milliseconds timeout) {
  switch (send_all(fd_.get(), text, -1, std::chrono::steady_clock::now() + timeout)) {
    case SendResult::kSent:
      return;
    case SendResult::kTimedOut:
      throw Error(ErrorKind::kVm, "the guest does not read its console");
    case SendResult::kGone:
      throw Error(ErrorKind::kVm, "the VM's console is closed");
  }
}

void SerialConsole::read_all(const std::stop_token& stop) {
  std::array<char, kReadSize> buffer{};
  while (wait_readable(fd_.get(), wake_) == Readable::kData && !stop.stop_requested()) {
    const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (got <= 0) return;
    keep({buffer.data(), static_cast<std::size_t>(got)});
  }
}

void SerialConsole::keep(std::string_view text) {
  {
    auto state = state_.lock();
    state->kept.append(text);
    // Half of the text is dropped at a time, so that a guest with much output does not cost a move for each line.
    if (state->kept.size() > keep_bytes_ + keep_bytes_ / 2) {
      const std::size_t drop = state->kept.size() - keep_bytes_;
      state->kept.erase(0, drop);
      state->first += drop;
    }
  }
  more_.notify_all();
}

}  // namespace isr
